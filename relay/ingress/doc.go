// Package ingress is where jobs' connections enter the relay.
//
// There are three kinds: [Connect], an HTTP proxy for CONNECT and for plain
// requests in absolute form, [Socks5], and [Port], which stands for one store and
// one job. The caller hands each a [Dialer] and serves it on a [Listener], whose
// [Rules] say who gets in and whether there is TLS; Connect can also be the
// handler of another HTTP server. An ingress authenticates the job by its token,
// asks the Dialer for a stream to the store that the request names, and carries
// the bytes until both directions are over. It answers by itself only before a
// stream is open; from then on every end is the stream's.
//
// Sockets have SO_LINGER 0 from birth, inherited from the listener, so that a
// relay that dies resets its jobs' connections: a killed relay never looks like
// a finished copy. An answer of the ingress' own takes that back first, so that
// it arrives. With TLS, close_notify is what FIN is without: a FIN alone is no
// end, and a connection that is reset says no close_notify. A plain answer whose
// end is the end of its connection (HTTP/1.0) is held to the same.
//
// Methods may be called from any goroutine; Serve returns when its context ends,
// its listener is closed or Drain was called, and leaves streams to Drain.
package ingress
