// Package proxycfg decides whether a connection goes through an HTTP proxy, and
// takes it through: CONNECT, or an upgrade of a plain request, with Basic or
// NTLMv2.
//
// # Use
//
// [New] validates [Settings] and does no I/O. [Proxy.For] tells the proxy for a
// destination, without I/O. [Proxy.DialContext] has the signature of
// [net.Dialer.DialContext] and returns a TCP connection to the destination,
// through the proxy where For says so; every error of it is an [*Error]. All
// methods may be called by any number of goroutines at once.
//
// The connection that DialContext returns is a [*net.TCPConn], unless the proxy
// sent bytes of the destination together with its answer; then it is a wrapper
// whose Unwrap method gives both. Nothing of this package is left running.
//
// Where a proxy refuses CONNECT to a port of plain HTTP, [Proxy.Upgrade] asks it
// for a WebSocket in the way of any other request.
//
// A proxy's 200 does not mean that the destination was reached. When the first
// read afterwards fails, [Proxy.Explain] puts that into words.
//
// # Credentials
//
// Accounts get locked by wrong passwords, so attempts are counted here. An
// attempt is a request that carries a Basic credential, or the third message of
// NTLM. The first dial with a credential goes alone, the others wait for its
// outcome. A 407 that answers an attempt is definitive: it ends all attempts
// with that credential, also with other schemes and, by a record in the state
// directory, after a restart. What lifts it is a change: of the proxy's address,
// of the user name, of the schemes, of the password, of the password file's
// modification time while the program runs, or the removal of the record. The
// password file is read at each dial, so no reload is needed.
//
// An attempt that was never answered tells nothing. Until the credential was
// accepted once, such attempts are spaced: a minute, then twice as long each
// time, ten minutes at most.
//
// Several programs that share one account do not know of each other; together
// they can still lock it.
//
// # Limits
//
// One exchange with a proxy takes at most 20 s, an answer's header at most
// 64 KiB, an NTLM challenge at most 16 KiB. Proxies are spoken to by plain HTTP.
package proxycfg
