package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbgate/ebbgate/relay/ingress"
	"github.com/ebbgate/ebbgate/tunnel"
)

// site is what the relay answers over HTTPS.
func (r *Relay) site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "This is an Ebbgate relay. Connectors and clients reach it on this port.")
	})
	mux.HandleFunc("GET /healthz", r.healthz)
	mux.HandleFunc(tunnel.TunnelPath, r.serveTunnel)
	return &siteHandler{pages: mux, ingress: r.doors.web}
}

// plainSite is what the relay answers over plain HTTP: WebSockets, and nothing
// that holds a secret.
func (r *Relay) plainSite() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(tunnel.TunnelPath, r.serveTunnel)
	return &siteHandler{pages: mux}
}

// serveTunnel serves a WebSocket as the TLS port serves a connection. Who is
// there, the TLS inside tells.
func (r *Relay) serveTunnel(w http.ResponseWriter, req *http.Request) {
	conn, err := tunnel.AcceptWebSocket(w, req)
	if err != nil {
		r.metrics.connections.WithLabelValues("upgrade-refused").Inc()
		return
	}
	r.metrics.connections.WithLabelValues("websocket").Inc()
	takeOver(req, func(ctx context.Context, proved func()) { r.serveInside(ctx, conn, proved) })
}

// siteHandler tells requests to a proxy, CONNECT and those in absolute form (RFC
// 9112 §3.2), from requests for pages.
type siteHandler struct {
	pages   http.Handler
	ingress func() *ingress.Connect // gives nil where there is none; nil: there never is
}

func (h *siteHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if v, ok := req.Context().Value(visitorKey{}).(*visitor); ok {
		v.asked.Store(true)
	}
	if req.Method != http.MethodConnect && (h.ingress == nil || !req.URL.IsAbs()) {
		h.pages.ServeHTTP(w, req)
		return
	}
	if h.ingress != nil {
		if in := h.ingress(); in != nil {
			in.ServeHTTP(w, req)
			return
		}
	}
	w.Header().Set("Ebbgate-Error", "no-ingress")
	http.Error(w, "relay: jobs do not come in here\nset ingress.https in the relay's configuration, or use ebbgate forward", http.StatusMethodNotAllowed)
}

// website serves HTTP/1.1 on connections that are handed to it one by one: over
// TLS, or without where config is nil.
type website struct {
	server *http.Server
	conns  chan net.Conn
	done   chan struct{}
	config *tls.Config
	served sync.WaitGroup
	silent func() // counts a connection that was closed without a request
}

func (r *Relay) newWebsite(handler http.Handler, config *tls.Config) *website {
	logger, silence := r.log, r.metrics.connections.WithLabelValues("silence")
	w := &website{silent: silence.Inc, conns: make(chan net.Conn), done: make(chan struct{}), config: config}
	w.server = &http.Server{
		Handler: handler, ReadHeaderTimeout: firstBytes, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			v := visitorOf(c)
			return context.WithValue(ingress.WithConn(ctx, c, v.proved), visitorKey{}, v)
		},
	}
	w.served.Go(func() { _ = w.server.Serve(w) })
	return w
}

// visitor is a connection to a website. Whoever serves it waits until it is
// closed or taken over.
type visitor struct {
	net.Conn
	over  chan struct{} // closed by Close
	taken chan func(ctx context.Context, proved func())
	close func() // closes over, once
	// proved says that the connection is not anonymous any more
	proved func()
	asked  atomic.Bool // there was a request
}

// visitorKey is for a request's visitor in its context.
type visitorKey struct{}

// visitorOf finds the visitor under TLS; nil: it came by no website.
func visitorOf(c net.Conn) *visitor {
	for {
		switch under := c.(type) {
		case *visitor:
			return under
		case interface{ NetConn() net.Conn }:
			c = under.NetConn()
		default:
			return nil
		}
	}
}

// Close closes the connection and ends the visit.
func (v *visitor) Close() error {
	v.close()
	return v.Conn.Close()
}

// NetConn is the connection that was handed to the website.
func (v *visitor) NetConn() net.Conn { return v.Conn }

// takeOver makes serve run with what a handler has hijacked, instead of in the
// handler's goroutine: the relay waits for it, ctx ends with the relay's
// service, and proved says that the connection is not anonymous any more. It is
// called at most once a connection; serve closes the connection.
func takeOver(req *http.Request, serve func(ctx context.Context, proved func())) {
	v, _ := req.Context().Value(visitorKey{}).(*visitor)
	if v == nil {
		panic("relay: BUG: a request that came by no website")
	}
	v.taken <- serve // has room for one
}

// serve lets the website answer on conn until it is over. It counts as anonymous
// all the while, unless a handler took it over and calls proved.
func (w *website) serve(ctx context.Context, conn net.Conn, proved func()) {
	_ = conn.SetDeadline(time.Now().Add(firstBytes)) // net/http sets its own after the handshake
	v := &visitor{Conn: conn, proved: proved, over: make(chan struct{}), taken: make(chan func(context.Context, func()), 1)}
	v.close = sync.OnceFunc(func() { close(v.over) })
	var served net.Conn = v
	if w.config != nil {
		// not a *tls.Conn: an answer that breaks off must not end like a whole one
		served = ingress.Secure(v, func(c net.Conn) *tls.Conn { return tunnel.WebTLS(c, w.config) })
	}
	select {
	case w.conns <- served:
	case <-w.done:
		_ = conn.Close()
		return
	}
	select {
	case take := <-v.taken:
		take(ctx, proved)
		return
	case <-v.over:
	}
	select {
	case take := <-v.taken: // it owns what it took, closed or not
		take(ctx, proved)
	default:
		if !v.asked.Load() {
			w.silent()
		}
	}
}

func (w *website) close() {
	close(w.done)
	_ = w.server.Close()
	w.served.Wait()
}

// Accept is net.Listener's.
func (w *website) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (w *website) Close() error { return nil }

// Addr is net.Listener's.
func (w *website) Addr() net.Addr { return &net.TCPAddr{} }
