package proxycfg

import (
	"net"
	"net/http"
	"net/url"
	"strings"
)

// request is what a proxy is asked for, again with each step of authentication.
type request struct {
	target string // the destination, host:port
	what   string // method and target, for people
	wish   string // what the network team is to allow
	head   string // all of it but the credential and the empty line
	method string
	// switched is the header of the answer 101, once a dial for an upgrade
	// succeeded; nil for CONNECT.
	switched http.Header
}

// connectTo asks for a tunnel to host:port (RFC 9110, section 9.3.6).
func connectTo(target string) *request {
	return &request{
		target: target, what: "CONNECT " + target, wish: "CONNECT to " + target, method: http.MethodConnect,
		head: "CONNECT " + target + " HTTP/1.1\r\n" +
			"Host: " + target + "\r\n" +
			"User-Agent: Ebbgate\r\n" +
			"Proxy-Connection: Keep-Alive\r\n",
	}
}

// upgradeOf asks for what req asks, in absolute form (RFC 9112, section 3.2.2).
func upgradeOf(req *http.Request, target string) *request {
	at := url.URL{Scheme: "http", Host: req.URL.Host, Path: req.URL.Path, RawQuery: req.URL.RawQuery}
	var head strings.Builder
	head.WriteString(req.Method + " " + at.String() + " HTTP/1.1\r\nHost: " + at.Host + "\r\n")
	_ = req.Header.Write(&head) // a Builder takes everything
	what := req.Method + " " + at.String()
	return &request{target: target, what: what, wish: what, method: req.Method, head: head.String()}
}

// text is the request with a credential, which may be empty.
func (r *request) text(authorization string) string {
	if authorization == "" {
		return r.head + "\r\n"
	}
	return r.head + "Proxy-Authorization: " + authorization + "\r\n\r\n"
}

// granted says that the connection now is what was asked for.
func (r *request) granted(a *answer) bool {
	if r.method == http.MethodConnect {
		return a.tunnel()
	}
	return a.status == http.StatusSwitchingProtocols
}

// Upgrade sends req, an upgrade (RFC 9110, section 7.8) of a URL with http, to
// the proxy for it, as a plain request without CONNECT, and authenticates as
// DialContext does. It returns the answer 101 and the connection, which belongs
// to what was upgraded to. Every error is an [*Error], also where [Proxy.For]
// yields no proxy. The body of req is not sent.
func (p *Proxy) Upgrade(req *http.Request) (*http.Response, net.Conn, error) {
	addr := req.URL.Host
	if req.URL.Port() == "" {
		addr = net.JoinHostPort(req.URL.Hostname(), "80")
	}
	host, port, err := splitAddr(addr)
	if err != nil || req.URL.Scheme != "http" {
		return nil, nil, errDestination(addr)
	}
	r := p.route(host, port)
	if r.err != nil {
		return nil, nil, r.err
	}
	if r.via == nil {
		return nil, nil, errConfig("proxy", "yields no proxy for "+quote(addr), "connect to it directly")
	}
	p.last.Store(r.via)
	asked := upgradeOf(req, net.JoinHostPort(withoutZone(host), port))
	conn, err := r.via.dial(req.Context(), asked)
	if err != nil {
		return nil, nil, err
	}
	return &http.Response{
		Status: "101 Switching Protocols", StatusCode: http.StatusSwitchingProtocols,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: asked.switched, Body: http.NoBody, Request: req,
	}, conn, nil
}
