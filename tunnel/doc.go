// Package tunnel is how connectors, clients and the relay reach and speak to
// each other: carriers, links, sessions.
//
// A [Carrier] is a way through a network. A [Link] is one established,
// authenticated connection that carries streams, on any carrier. A [Session]
// is a link whose first stream, the control stream, carries messages; its other
// streams are lanes, each announced by a [Join].
//
// # Who calls what
//
// The side that dials (connector, client) makes links with a [Dialer] and keeps
// a session up with a [Keeper]. The relay looks at the first bytes of each TCP
// connection with [Peek] and turns sessions' connections into links with
// [ServeTLS], also those that its site made of an upgrade with
// [AcceptWebSocket], and those of QUIC with [ListenQUIC]. Both sides then run
// [NewSession], [Session.Start], [Session.Run]. Newcomers without a certificate
// use [Enrol]; the relay answers with [ServeEnrol].
//
// # Ends
//
// An EOF on a stream means nothing. yamux reports it when the connection under
// it dies, and a peer that is killed looks the same; where this package can tell,
// it reports an error instead, but what travels on a lane must say itself where
// it ends, and never take EOF for an end. tunnel/bundle does.
//
// # Bounds
//
// Until a peer is authenticated it has 10 seconds and 16 KiB. Afterwards
// messages are at most 64 KiB, handlers run off the read loop, a bounded number
// at a time, and a peer that floods loses its session with a named reason. Who
// showed no certificate can do one thing: enrol.
//
// # Concurrency
//
// All exported methods may be called from any goroutine unless they say
// otherwise. What a Run or Serve method starts is over when it returns; a link's
// goroutines end with its Close.
//
// The wire format is in PROTOCOL.md, which a test holds against this code.
package tunnel
