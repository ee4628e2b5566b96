package proxycfg

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/http/httpproxy"
)

// Proxy dials as Settings say. Make one with [New].
type Proxy struct {
	// Static after construction.
	bypass  []rule
	reach   reach
	web     route                            // port 80
	secure  route                            // all other ports
	noProxy func(*url.URL) (*url.URL, error) // ModeSystem; nil: there are no exceptions

	last atomic.Pointer[upstream] // the proxy last used
}

// route is what a kind of destinations goes through; both nil: nothing.
type route struct {
	via *upstream
	err *Error // the environment names something that is no proxy
}

// Status is what a person wants to know about the proxy.
type Status struct {
	// Proxy is host:port of the configured proxy, in ModeSystem of the one last
	// used; empty: none.
	Proxy string
	// Auth is the scheme that the proxy accepted; empty: none was asked for yet.
	Auth Scheme
	// Refused says that the proxy refused the credential and that it is not tried
	// again until something changes.
	Refused bool
}

// New validates the settings. The error is an [*Error] that names the key. A nil
// logger discards.
func New(set Settings, logger *slog.Logger) (*Proxy, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{reach: reach{
		lookup: net.DefaultResolver.LookupNetIP,
		dial:   (&net.Dialer{Control: set.Control}).DialContext,
	}}
	var err error
	if p.bypass, err = parseBypass(set.Bypass); err != nil {
		return nil, err
	}
	schemes, err := set.schemes()
	if err != nil {
		return nil, err
	}
	memory := newMemory(set.StateDir)
	upstreamAt := func(key, value string) (*upstream, error) {
		u, err := upstreamURL(key, value)
		if err != nil {
			return nil, err
		}
		src, err := set.source(key, u)
		if err != nil {
			return nil, err
		}
		return &upstream{
			url: &url.URL{Scheme: u.Scheme, Host: u.Host}, host: u.Hostname(), port: u.Port(), addr: u.Host,
			source: src, schemes: schemes, reach: p.reach, memory: memory, log: logger,
			handshake: make(chan struct{}, 1),
		}, nil
	}
	switch set.Mode {
	case ModeNone, "":
	case ModeCustom:
		if set.URL == "" {
			return nil, errConfig("proxy.url", "is missing", "mode custom needs it: url: http://proxy.corp.example:8080")
		}
		up, err := upstreamAt("proxy.url", set.URL)
		if err != nil {
			return nil, err
		}
		p.web.via, p.secure.via = up, up
		p.last.Store(up)
	case ModeSystem:
		p.system(set, upstreamAt)
	default:
		return nil, errConfig("proxy.mode", "is "+quote(string(set.Mode)), "use none, system or custom")
	}
	return p, nil
}

// system reads the environment. A variable that names no proxy is an error only
// for the destinations that it is for.
func (p *Proxy) system(set Settings, upstreamAt func(key, value string) (*upstream, error)) {
	get := func(name string) string {
		if set.Environment == nil {
			return ""
		}
		if v := set.Environment(strings.ToLower(name)); v != "" {
			return v
		}
		return set.Environment(name)
	}
	byValue := map[string]route{"": {}}
	routeOf := func(name string) route {
		value := get(name)
		if value != "" && !strings.Contains(value, "://") {
			value = "http://" + value
		}
		r, ok := byValue[value]
		if !ok {
			var err error
			if r.via, err = upstreamAt(name, value); err != nil {
				_ = errors.As(err, &r.err)
			}
			byValue[value] = r
		}
		return r
	}
	p.web, p.secure = routeOf("HTTP_PROXY"), routeOf("HTTPS_PROXY")
	// Only what NO_PROXY says is asked of the library: it takes a proxy that it
	// cannot read for none.
	placeholder := httpproxy.Config{HTTPProxy: "http://proxy", HTTPSProxy: "http://proxy", NoProxy: get("NO_PROXY")}
	p.noProxy = placeholder.ProxyFunc()
}

// For tells the proxy for a destination; nil: it is dialled directly. The URL
// holds no user information. It does no I/O. The error is an [*Error].
func (p *Proxy) For(host string, port int) (*url.URL, error) {
	if port < 1 || port > 65535 {
		return nil, errDestination(net.JoinHostPort(host, strconv.Itoa(port)))
	}
	name, err := canonicalHost(host)
	if err != nil {
		return nil, errDestination(net.JoinHostPort(host, strconv.Itoa(port)))
	}
	r := p.route(name, strconv.Itoa(port))
	if r.err != nil {
		return nil, r.err
	}
	if r.via == nil {
		return nil, nil
	}
	u := *r.via.url
	return &u, nil
}

// route decides for a canonical host.
func (p *Proxy) route(host, port string) route {
	r, scheme := p.secure, "https"
	if port == "80" {
		r, scheme = p.web, "http"
	}
	if r == (route{}) || bypassed(p.bypass, host) {
		return route{}
	}
	if p.noProxy != nil {
		if u, err := p.noProxy(&url.URL{Scheme: scheme, Host: net.JoinHostPort(withoutZone(host), port)}); err == nil && u == nil {
			return route{}
		}
	}
	return r
}

// DialContext connects to addr, host:port, through the proxy where there is one
// for it. network is tcp, tcp4 or tcp6 and limits only direct connections. Every
// error is an [*Error].
//
// It may go on for up to a second after ctx ended, to learn what became of the
// first attempt with a credential.
func (p *Proxy) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := splitAddr(addr)
	if err != nil || network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, errDestination(addr)
	}
	r := p.route(host, port)
	if r.err != nil {
		return nil, r.err
	}
	target := net.JoinHostPort(host, port)
	if r.via == nil {
		conn, err := p.reach.connect(ctx, network, host, port)
		if err != nil {
			return nil, errDial(ctx, false, target, err)
		}
		return conn, nil
	}
	p.last.Store(r.via)
	return r.via.dial(ctx, connectTo(net.JoinHostPort(withoutZone(host), port)))
}

// Explain puts the failure of the first exchange on a connection of DialContext
// to addr into words: where a proxy's 200 was followed by silence, an end, or
// something that is not TLS, an [*Error] that says so and wraps err; in all
// other cases err itself.
func (p *Proxy) Explain(addr string, err error) error {
	var known *Error
	host, port, aerr := splitAddr(addr)
	if err == nil || aerr != nil || errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	r := p.route(host, port)
	if r.via == nil {
		return err
	}
	target := net.JoinHostPort(host, port)
	e := &Error{hop: hopProxy, Proxy: r.via.addr, StatusCode: 200, err: err}
	after := "proxycfg: proxy " + r.via.addr + " answered 200 to CONNECT " + target + " and then "
	ask := "ask the network team to allow CONNECT to " + target + " on this proxy, without inspection; a 200 alone does not mean that the destination was reached"
	var ne net.Error
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		e.code, e.message = CodeTunnelGarbage, after+"sent "+quote(string(record.RecordHeader[:]))+", which is not TLS"
		e.advice = "the proxy or the destination answers with something else, such as a web page: check the destination's port; " + ask
	case errors.As(err, &ne) && ne.Timeout():
		e.code, e.message, e.advice = CodeTunnelSilent, after+"nothing came", ask
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.code, e.message, e.advice = CodeTunnelClosed, after+"closed the connection", "check that the destination is up; "+ask
	default:
		return err
	}
	return e
}

// Status tells the state of the proxy.
func (p *Proxy) Status() Status {
	up := p.last.Load()
	if up == nil {
		return Status{}
	}
	auth, refused := up.gate.status()
	return Status{Proxy: up.addr, Auth: auth, Refused: refused}
}

// splitAddr splits host:port and makes the host canonical.
func splitAddr(addr string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(addr)
	if err != nil {
		return "", "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", "", errors.New("impossible port")
	}
	host, err = canonicalHost(host)
	return host, strconv.FormatUint(n, 10), err
}
