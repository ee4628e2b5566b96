// Package relay is the cloud side: it accepts the sessions of connectors and
// clients, authorizes jobs' dials, matches each to a node of the gateway, and
// moves lanes' bytes.
//
// The command makes a [Relay] with [New] and calls [Relay.Run], which serves
// until its context ends, then drains and returns; nothing that it started is
// left. One Relay owns one state directory.
//
// Inside, the acceptor tells connections apart and does handshakes off the
// accept loop; the registry knows which nodes and clients are here now; the
// dialer is what ingresses and clients ask for a way to a store. All of them
// take identities from verified certificates and tokens alone, and use
// (tenant, name) keys throughout.
//
// The relay holds no stream state but that of its own ingresses, which are ends
// of bundles themselves. A lane between a client and a node it copies without
// looking: client and node have TLS with each other inside.
package relay
