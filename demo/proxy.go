package demo

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the proxy.
const (
	proxyConnections   = 256
	proxyHeaderTimeout = 10 * time.Second
	proxyIdleTimeout   = 30 * time.Second
	proxyDialTimeout   = 5 * time.Second
	proxyHeaderBytes   = 16 << 10
	proxyBuffer        = 128 << 10 // for each direction of a tunnel
	proxyLegs          = 12        // 407 answers on one connection
)

// ProxyConfig is what a [Proxy] lets out, and for whom.
type ProxyConfig struct {
	// Allow is the only host:port that CONNECT may name, as the client spells it.
	Allow string
	// Domain, DNSDomain, User and Password are the one account that there is.
	Domain, DNSDomain, User, Password string
	// Logger takes refusals; nil discards.
	Logger *slog.Logger
}

// ProxyStats is what went through a proxy so far.
type ProxyStats struct {
	Connections int64 // TCP connections from clients
	Tunnels     int64 // CONNECT requests that were let through, each proved by NTLMv2
	Refused     int64 // AUTHENTICATE messages that proved nothing
	Denied      int64 // authenticated requests for something else than Allow
	Sent        int64 // bytes from clients to the outside, inside tunnels
	Received    int64 // bytes from the outside to clients, inside tunnels
}

// Proxy is a forward proxy of a company: it demands NTLM on every connection
// (RFC 4559's scheme NTLM, as Squid and Microsoft's proxies do it), checks the
// NTLMv2 proof itself, and then allows CONNECT to one address. It speaks no
// weaker NTLM and no Basic.
type Proxy struct {
	cfg       ProxyConfig
	authority *ntlmAuthority
	log       *slog.Logger

	connections, tunnels, refused, denied, sent, received atomic.Int64

	running sync.WaitGroup // tunnels
}

// NewProxy makes a proxy that knows one account.
func NewProxy(cfg ProxyConfig) *Proxy {
	ntHash := ntHashOf(cfg.Password)
	p := &Proxy{cfg: cfg, log: cfg.Logger}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.cfg.Password = ""
	p.authority = &ntlmAuthority{
		domain:    cfg.Domain,
		dnsDomain: cfg.DNSDomain,
		computer:  "PROXY",
		now:       time.Now,
		account: func(user string) ([]byte, bool) {
			return ntHash, strings.EqualFold(user, cfg.User)
		},
	}
	return p
}

// Stats may be called at any time.
func (p *Proxy) Stats() ProxyStats {
	return ProxyStats{
		Connections: p.connections.Load(),
		Tunnels:     p.tunnels.Load(),
		Refused:     p.refused.Load(),
		Denied:      p.denied.Load(),
		Sent:        p.sent.Load(),
		Received:    p.received.Load(),
	}
}

// Serve proxies on ln until ctx ends, then closes ln and every tunnel, waits for
// them and returns nil; any other end of ln is an error.
func (p *Proxy) Serve(ctx context.Context, ln *net.TCPListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer p.running.Wait()
	defer cancel()
	srv := &http.Server{
		Handler:           http.HandlerFunc(p.serve),
		ReadHeaderTimeout: proxyHeaderTimeout,
		IdleTimeout:       proxyIdleTimeout,
		MaxHeaderBytes:    proxyHeaderBytes,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		// Tunnels outlive their requests' contexts but not this one.
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			p.connections.Add(1)
			return context.WithValue(ctx, proxyConnKey{}, &proxyConn{
				proxy:    p,
				serving:  ctx,
				exchange: ntlmExchange{authority: p.authority},
			})
		},
	}
	return serveUntil(ctx, srv, newBoundedListener(ln, proxyConnections))
}

type proxyConnKey struct{}

// proxyConn is the state of one client connection. net/http serves the requests
// of a connection one after the other, so no lock is needed.
type proxyConn struct {
	proxy    *Proxy
	serving  context.Context // the proxy's
	exchange ntlmExchange
	user     string // proved; "" until then
	legs     int
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(proxyConnKey{}).(*proxyConn)
	if c.user == "" && !c.authenticate(w, r) {
		return
	}
	switch {
	case r.Method != http.MethodConnect:
		p.denied.Add(1)
		http.Error(w, "this proxy relays CONNECT only", http.StatusForbidden)
	case r.Host != p.cfg.Allow:
		p.denied.Add(1)
		http.Error(w, "company policy does not allow this destination", http.StatusForbidden)
	default:
		c.tunnel(w, r)
	}
}

// authenticate plays one leg. It has answered the request when it returns false.
func (c *proxyConn) authenticate(w http.ResponseWriter, r *http.Request) bool {
	if c.legs++; c.legs > proxyLegs {
		w.Header().Set("Connection", "close")
		http.Error(w, "too many authentication attempts", http.StatusForbidden)
		return false
	}
	demand := "NTLM"
	scheme, value, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	if strings.EqualFold(scheme, "NTLM") {
		message, err := decodeNTLM(value)
		switch {
		case err == nil && len(message) > 8 && message[8] == 3:
			var user string
			if user, err = c.exchange.Authenticate(message); err == nil {
				c.user = user
				return true
			}
			c.proxy.refused.Add(1)
		case err == nil:
			var challenge []byte
			if challenge, err = c.exchange.Challenge(message); err == nil {
				demand += " " + base64.StdEncoding.EncodeToString(challenge)
			}
		}
		if err != nil {
			c.proxy.log.Info("proxy: authentication refused", "client", r.RemoteAddr, "error", err)
		}
	}
	w.Header().Set("Proxy-Authenticate", demand)
	http.Error(w, "proxy authentication required", http.StatusProxyAuthRequired)
	return false
}

func decodeNTLM(value string) ([]byte, error) {
	if len(value) > base64.StdEncoding.EncodedLen(ntlmMaxSize) {
		return nil, errNTLMMalformed
	}
	message, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return nil, errNTLMMalformed
	}
	return message, nil
}

// tunnel dials the destination and becomes a pipe. It returns when both
// directions have ended.
func (c *proxyConn) tunnel(w http.ResponseWriter, r *http.Request) {
	dialer := net.Dialer{Timeout: proxyDialTimeout}
	outside, err := dialer.DialContext(r.Context(), "tcp", c.proxy.cfg.Allow)
	if err != nil {
		http.Error(w, "the destination does not answer", http.StatusBadGateway)
		return
	}
	c.proxy.running.Add(1)
	defer c.proxy.running.Done()
	out := outside.(*net.TCPConn)
	defer out.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		c.proxy.log.Error("proxy: hijack", "error", err)
		return
	}
	in := client.(*boundedConn)
	defer in.Close()
	in.SetDeadline(time.Time{})
	stop := context.AfterFunc(c.serving, func() {
		in.Close()
		out.Close()
	})
	defer stop()
	if _, err := io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	c.proxy.tunnels.Add(1)
	var up sync.WaitGroup
	up.Go(func() { c.pump(out, pipelined(buffered.Reader, in), in, &c.proxy.sent) })
	c.pump(in, out, out, &c.proxy.received)
	up.Wait()
}

// halfCloser is a TCP connection, bare or counted.
type halfCloser interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// pump copies one direction and hands its end on: EOF as a half-close, anything
// else as a reset of both sides.
func (c *proxyConn) pump(dst halfCloser, src io.Reader, source halfCloser, count *atomic.Int64) {
	buf := make([]byte, proxyBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				err = werr
			} else {
				count.Add(int64(n))
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			dst.CloseWrite()
			return
		default:
			for _, side := range []halfCloser{dst, source} {
				side.SetLinger(0)
				side.Close()
			}
			return
		}
	}
}

// pipelined reads what came with the request before it reads from the socket.
func pipelined(buffered *bufio.Reader, conn io.Reader) io.Reader {
	if buffered.Buffered() == 0 {
		return conn
	}
	head, _ := buffered.Peek(buffered.Buffered())
	return io.MultiReader(strings.NewReader(string(head)), conn)
}
