package connector

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// corporateProxy is an HTTP proxy that knows CONNECT. Its path can be frozen, as
// a firewall that forgot a connection does.
type corporateProxy struct {
	*httptest.Server
	deny   bool // 407 to everybody
	frozen chan struct{}

	mu   sync.Mutex
	seen []string // hosts that were asked for
}

func startProxy(t *testing.T, deny bool) *corporateProxy {
	t.Helper()
	p := &corporateProxy{deny: deny, frozen: make(chan struct{})}
	var tunnels sync.WaitGroup
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, req.Host)
		p.mu.Unlock()
		if p.deny {
			w.Header().Set("Proxy-Authenticate", `Basic realm="corp"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		far, err := net.Dial("tcp", req.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		near, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			_ = far.Close()
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
			tunnels.Go(func() { p.pump(pair[0], pair[1]) })
		}
	}))
	t.Cleanup(func() { p.Server.Close(); tunnels.Wait() })
	return p
}

func (p *corporateProxy) pump(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-p.frozen:
			// What comes is swallowed, until an end closes.
			_, _ = io.Copy(io.Discard, from)
			return
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *corporateProxy) config() config.Proxy {
	return config.Proxy{Mode: config.ProxyCustom, URL: p.URL}
}

func TestThroughAProxy(t *testing.T) {
	r := startRelay(t, relayOptions{})
	proxy := startProxy(t, false)
	opt := r.options(t)
	opt.File.Proxy = proxy.config()
	got, err := Register(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if got.Carrier != "tls" {
		t.Errorf("registered over %s", got.Carrier)
	}
	// A store at the proxy's address and port is not dialled.
	opt.File.Stores = stores(portOf(proxy.Listener.Addr()))
	p := run(t, opt.File)
	if ready := <-p.ready; ready.Proxy != proxy.Listener.Addr().String() {
		t.Errorf("ready %+v", ready)
	}
	r.next(tunnel.RoleControl)
	if rep := p.status(func(r *Report) bool { return len(r.Sessions) == 2 }); rep.Proxy != proxy.Listener.Addr().String() || rep.Carrier != "tls" {
		t.Errorf("status %+v", rep)
	}
	if beat := <-r.beats; beat.Proxy != proxy.Listener.Addr().String() {
		t.Errorf("heartbeat %+v", beat)
	}
	_, err = r.open(t.Context(), r.node("n1"), "echo", nil)
	if refusal := refusalOf(err); refusal.Reason != bundle.CodeAddressRefused {
		t.Errorf("open: %v", err)
	}
	p.status(func(r *Report) bool { return r.LastError != nil && r.LastError.Code == "address-refused" })
	proxy.mu.Lock()
	defer proxy.mu.Unlock()
	for _, host := range proxy.seen {
		if host != r.tcp.Addr().String() {
			t.Errorf("the proxy was asked for %s", host)
		}
	}
}

func TestProxyDemandsAPassword(t *testing.T) {
	r := startRelay(t, relayOptions{})
	opt := r.options(t)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	opt.File.Proxy = startProxy(t, true).config()
	other := r.options(t)
	other.File.Proxy = opt.File.Proxy
	_, err := Register(t.Context(), other)
	wantSpoken(t, err, "proxy-auth-required", "proxy-auth")
	p := run(t, opt.File)
	rep := p.status(func(r *Report) bool { return r.LastError != nil })
	if rep.LastError.Code != "proxy-auth-required" || rep.LastError.Hop != "proxy-auth" || rep.LastError.Advice == "" {
		t.Errorf("last error %+v", rep.LastError)
	}
}

// A path on which nothing arrives any more does not hold the end up.
func TestStopOnAFrozenPath(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	proxy := startProxy(t, false)
	opt := r.options(t)
	opt.File.Proxy = proxy.config()
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	opt.File.Stores = stores(portOf(echo(t).Addr()))
	p := run(t, opt.File)
	<-p.ready
	r.next(tunnel.RoleControl)
	s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	here, there := socketPair(t)
	go s.Carry(there, nil)
	if _, err := io.WriteString(here, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(here, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	close(proxy.frozen)
	if _, err := here.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p.stop()
	if took := time.Since(begin); took > 20*time.Second || p.err != nil {
		t.Errorf("stopping took %v: %v", took, p.err)
	}
	s.Reset(bundle.CodeCancelled)
	<-s.Done()
}

// A better carrier takes over only while no stream is open.
func TestBetterCarrierWaits(t *testing.T) {
	r := startRelay(t, relayOptions{})
	opt := r.options(t, config.CarrierTLS)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	opt.File.Carriers = nil
	opt.File.Stores = stores(portOf(echo(t).Addr()))
	c, err := New(Config{File: opt.File, Environment: func(string) string { return "" }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := openStateDir(opt.File.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.close()
	reg, saved, err := dir.loadNode()
	if err != nil {
		t.Fatal(err)
	}
	n, err := newRunning(c, dir, reg, saved)
	if err != nil {
		t.Fatal(err)
	}
	// UDP does not work at first.
	quicPort := n.relays[0].route().way.Endpoint.QUICPort
	n.relays[0].route().way.Endpoint.QUICPort = 0
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- n.run(ctx) }()
	defer func() { cancel(); <-over }()
	r.both()
	if len(n.sessions.all()) != 2 {
		t.Errorf("%d sessions", len(n.sessions.all()))
	}
	probe := newWay(opt.File, n.relays[0].route().to, c.proxy, nil, n.id.sessionTLS, c.logger)
	probe.Endpoint.QUICPort = quicPort
	s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if link, err := n.relays[0].better(ctx, tunnel.TLS); err != errBusy || link != nil {
		t.Errorf("better: %v, %v", link, err)
	}
	link, err := probe.Better(ctx, tunnel.TLS)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.relays[0].serve(ctx, link, tunnel.RoleControl, func() { t.Error("took over") }); err != errBusy {
		t.Errorf("serve: %v", err)
	}
	if got := exchange(t, s, 1000); got.Reason != bundle.CodeOK {
		t.Errorf("the stream that was open: %+v", got)
	}
	for n.node.Streams() > 0 {
		<-time.After(time.Millisecond)
	}
	if link, err = probe.Better(ctx, tunnel.TLS); err != nil {
		t.Fatal(err)
	}
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.relays[0].serve(ctx, link, tunnel.RoleControl, func() { close(up) }) }()
	<-up
	// On QUIC there is no bulk session.
	for deadline := time.Now().Add(20 * time.Second); ; {
		bulk := 0
		for _, e := range n.sessions.all() {
			if e.role == tunnel.RoleBulk {
				bulk++
			}
		}
		if bulk == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the bulk session stays")
		}
		<-time.After(time.Millisecond)
	}
	cancel()
	<-ended
}

func TestStateDirPrivacy(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	foreign := write(t, dir+"/letter.txt", "dear")
	_, err := openStateDir(dir)
	wantSpoken(t, err, "state-dir-unusable", "config", dir)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory is %v now", info.Mode())
	}
	_ = os.Remove(foreign)
	d, err := openStateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v now", info.Mode())
	}
}

func TestTooManyStores(t *testing.T) {
	file := &config.Connector{StateDir: "x", Proxy: config.Proxy{Mode: config.ProxyNone}, Stores: make([]config.Store, 5000)}
	_, err := New(Config{File: file})
	wantSpoken(t, err, "config-invalid", "config", "5000 stores")
}

func TestStatusPathTooLong(t *testing.T) {
	_, err := Status(t.Context(), "/"+string(make([]byte, 200)))
	wantSpoken(t, err, "status-unavailable", "config", "shorter state_dir")
}
