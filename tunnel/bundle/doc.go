// Package bundle carries byte streams between two ends over one or many
// lanes, and tells the truth about how each of them ended.
//
// A lane is an authenticated byte pipe, any [net.Conn]: a stream of a session,
// or a TLS connection of its own. A bundle is all lanes between one ingress,
// where jobs' connections enter, and one node, which dials the stores. Streams
// belong to the bundle and not to a lane: any frame may travel on any lane,
// twice and late, so a stream outlives the lanes that carry it.
//
// # Who calls what
//
// The ingress (in the relay, or beside the job) makes one [Bundle] for each
// node with [NewIngress], adds lanes with [Bundle.Join] and opens streams with
// [Bundle.Open]. The connector makes one [Node] and hands it each lane with
// [Node.Serve]; the node calls the connector back for each stream that is to
// be dialled. On both sides [Stream.Carry] moves the bytes between a socket and
// the stream until both directions are over.
//
// The caller authenticates lanes: it verifies certificates and passes what it
// verified, with keying material that only the two ends of this lane share, in
// [LaneInfo]. The package checks that all lanes of a bundle belong to the same
// two identities and the same bundle secret.
//
// # Ends
//
// A direction ends well only when the far socket said so (FIN), every byte
// before it was written to the near socket and the CRC-32C of all of them
// agrees. Everything else is a reset with a [Code]. Sockets are handed over
// with SO_LINGER 0, so that a dying process resets them; Carry takes that back
// only after both directions ended well.
//
// # Memory
//
// All buffers come out of a [Pool]: the credit that was granted and not yet
// consumed, and the chunks that are kept until the far side consumed them. A
// stream that waits holds no buffer. A dry pool slows streams; it breaks none.
//
// # Concurrency
//
// All exported methods may be called from any goroutine. Each lane has one
// reader and one writer; each stream has one goroutine that reads its socket
// and, only while there is something to write, one that writes it. One mutex a
// bundle guards all state and is never held across I/O. Readers never wait for
// writers.
//
// Who has a few KB in hand writes them himself where that needs no waiting: a
// lane's reader writes to the stream's socket, and a socket's reader to a lane
// whose writer is idle. Nobody has to be woken for them. What does not fit is left
// to the goroutine whose task it is, as is bulk.
//
// The wire format is in ../PROTOCOL.md, which a test holds against this code.
package bundle
