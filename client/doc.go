// Package client is the job side: it reaches stores behind gateways from a
// machine that has a job's token and nothing else.
//
// A [Client] trades the token for a certificate that lives an hour (the key
// never leaves the process), keeps a session to the relay, or to two where there
// are several, and has a pool of grants and bundles, from which [Client.Open] takes
// streams. Between this
// process and the node everything is TLS 1.3 inside the session; the relay
// passes bytes on that it cannot read. A [Forwarder] puts a listening port in
// front of that.
//
// Programs in Go use a [Dialer], which runs a Client of its own: its DialContext
// fits database/sql's drivers, pgx, net/http and all that takes such a function,
// and its connections read end of file only where the store sent one.
//
// A relay is named by its host and TLS port; its other ports, and other relays of
// its instance, it announces itself. Several that are named are all there are.
// Only where the first session has to go over plain HTTP, and that is not on
// port 80, EBBGATE_RELAY_HTTP_PORT says where.
//
// Constructors do no I/O. [Client.Run] and [Forwarder.Run] block until their
// context ends, and when they return nothing that they started is left. All
// other methods may be called from any goroutine.
//
// A process is one run of its job: all streams of a Client count as one.
package client
