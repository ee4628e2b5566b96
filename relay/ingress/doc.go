// Package ingress is where jobs' connections enter the relay.
//
// The relay makes a [Connect] server, hands it a [Dialer] and runs it on a
// listener from [Listen]. The server authenticates the job by its token, asks
// the Dialer for a stream to the store that the request names, and carries the
// bytes until both directions are over. It answers by itself only before a
// stream is open; from then on every end is the stream's.
//
// Sockets have SO_LINGER 0 from birth, inherited from the listener, so that a
// relay that dies resets its jobs' connections: a killed relay never looks like
// a finished copy. An answer of the ingress' own takes that back first, so that
// it arrives.
package ingress
