package connector

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// process is a connector that runs in a test.
type process struct {
	t     *testing.T
	dir   string
	c     *Connector
	ready chan Ready
	over  chan error
	stop  func() // and wait; the error of Run is in err
	err   error
}

// echo is a store that sends back what it gets, and its port.
func echo(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
	return ln.(*net.TCPListener)
}

// stores are what the tests' connectors serve: echo, and some with rules.
func stores(port int) []config.Store {
	both := []config.IngressKind{config.IngressRelay, config.IngressClient}
	loop := []config.Special{config.SpecialLoopback}
	return []config.Store{
		{Name: "echo", Host: "127.0.0.1", Port: port, AllowSpecial: loop, Ingress: both},
		{Name: "refused", Host: "127.0.0.1", Port: port, Ingress: both},
		{Name: "clients", Host: "127.0.0.1", Port: port, AllowSpecial: loop, Ingress: []config.IngressKind{config.IngressClient}},
		{Name: "others", Host: "127.0.0.1", Port: port, AllowSpecial: loop, Ingress: both, Jobs: []string{"weekly"}},
		{Name: "nowhere", Host: "nowhere.invalid", Port: port, Ingress: both},
	}
}

// start registers a node at r and runs it.
func start(t *testing.T, r *fakeRelay, port int, carriers ...config.Carrier) *process {
	t.Helper()
	opt := r.options(t, carriers...)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	opt.File.Stores = stores(port)
	return run(t, opt.File)
}

// run runs a connector on a state directory that is there.
func run(t *testing.T, file *config.Connector) *process {
	t.Helper()
	return runConfig(t, Config{File: file})
}

// runConfig does the same with more than a file.
func runConfig(t *testing.T, cfg Config) *process {
	t.Helper()
	p := &process{t: t, dir: cfg.File.StateDir, ready: make(chan Ready, 1), over: make(chan error, 1)}
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	cfg.Software, cfg.Ready = "ebbgate/test", func(r Ready) { p.ready <- r }
	cfg.Environment = func(string) string { return "" }
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.c = c
	ctx, cancel := context.WithCancel(context.Background())
	go func() { p.over <- c.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		p.err = <-p.over
	})
	t.Cleanup(p.stop)
	return p
}

// ended waits for Run to end by itself.
func (p *process) ended() error {
	p.t.Helper()
	select {
	case err := <-p.over:
		p.over <- err
		return err
	case <-time.After(20 * time.Second):
		p.t.Fatal("the connector runs on")
		return nil
	}
}

// status asks until the answer is as wanted.
func (p *process) status(wanted func(*Report) bool) *Report {
	p.t.Helper()
	var last *Report
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if last, err = Status(p.t.Context(), p.dir); err == nil && wanted(last) {
			return last
		}
		<-time.After(5 * time.Millisecond)
	}
	p.t.Fatalf("status %+v, %v", last, err)
	return nil
}

// exchange sends bytes through a stream, half-closes and reads them back.
func exchange(t *testing.T, s *bundle.Stream, size int) bundle.Report {
	t.Helper()
	here, there := socketPair(t)
	report := make(chan bundle.Report, 1)
	go func() { report <- s.Carry(there, nil) }()
	sent := strings.Repeat("x", size)
	go func() {
		_, _ = io.WriteString(here, sent)
		_ = here.CloseWrite()
	}()
	got, err := io.ReadAll(here)
	if err != nil || string(got) != sent {
		t.Errorf("got %d bytes of %d back: %v", len(got), size, err)
	}
	return <-report
}

// socketPair is a TCP connection with both its ends.
func socketPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, port := tcp(t, "127.0.0.1:0")
	_ = port
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = conn.(*net.TCPConn), other.(*net.TCPConn)
	_ = b.SetLinger(0)
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

func TestRunOverEachCarrier(t *testing.T) {
	for _, carrier := range []config.Carrier{config.CarrierTLS, config.CarrierQUIC} {
		t.Run(string(carrier), func(t *testing.T) {
			r := startRelay(t, relayOptions{})
			r.set(func(r *fakeRelay) { r.hello.HeartbeatSeconds = 1 })
			ln := echo(t)
			p := start(t, r, portOf(ln.Addr()), carrier)
			ready := <-p.ready
			if ready.Node != r.node("n1").String() || ready.Carrier != string(carrier) || ready.Proxy != "" {
				t.Errorf("ready %+v", ready)
			}
			var v, bulk *visit
			if carrier == config.CarrierTLS {
				v, bulk = r.both()
			} else {
				v = r.next(tunnel.RoleControl)
			}
			if v.hello.Software != "ebbgate/test" || len(v.hello.Stores) != 5 || v.hello.Stores[0].Port != portOf(ln.Addr()) {
				t.Errorf("hello %+v", v.hello)
			}
			if carrier == config.CarrierTLS {
				if bulk.hello.Incarnation != v.hello.Incarnation {
					t.Errorf("the bulk session is of incarnation %s, not %s", bulk.hello.Incarnation, v.hello.Incarnation)
				}
			}
			s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			open := p.status(func(r *Report) bool {
				return r.Streams == 1 && r.Runs == 1 && r.RTTMillis > 0 && r.Sessions[0].RTTMillis > 0
			})
			if got := exchange(t, s, 3<<20); got.Reason != bundle.CodeOK || got.Sent != 3<<20 || got.Received != 3<<20 {
				t.Errorf("report %+v", got)
			}
			wantSessions := map[config.Carrier]int{config.CarrierTLS: 2, config.CarrierQUIC: 1}[carrier]
			if !open.Online || open.Carrier != string(carrier) || len(open.Sessions) != wantSessions || open.Relay != ready.Relay ||
				len(open.Stores) != 5 || open.Sessions[0].Relay != r.id.String() || open.Sessions[0].RTTMillis <= 0 {
				t.Errorf("status %+v", open)
			}
			// A stream that ended is not counted, nor is its run.
			p.status(func(r *Report) bool { return r.Streams == 0 && r.Runs == 0 })
			for beat := range r.beats { // the first is at once, network figures need two
				if beat.MemoryAvailable > 0 && beat.Streams == 0 && beat.NetworkIn+beat.NetworkOut > 0 {
					break
				}
			}
			p.stop()
			if p.err != nil {
				t.Error(p.err)
			}
			if _, err := Status(t.Context(), p.dir); err == nil {
				t.Error("a stopped connector answers")
			} else {
				wantSpoken(t, err, "connector-not-running", "node", p.dir)
			}
		})
	}
}

func TestRunRefusesDials(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	p := start(t, r, portOf(echo(t).Addr()))
	<-p.ready
	r.next(tunnel.RoleControl)
	node := r.node("n1")
	for _, tc := range []struct {
		name, store string
		change      func(*grant.Grant)
		want        bundle.Code
		words       string
	}{
		{"address refused", "refused", nil, bundle.CodeAddressRefused, "this node itself"},
		{"unknown store", "none", nil, bundle.CodeStoreUnknown, "no store none"},
		{"another ingress", "clients", nil, bundle.CodeStoreNotAllowed, "relay"},
		{"another job", "others", nil, bundle.CodeStoreNotAllowed, "nightly"},
		{"no such name", "nowhere", nil, bundle.CodeStoreUnresolved, "nowhere.invalid"},
		{"expired", "echo", func(g *grant.Grant) { g.Expires = time.Now().Add(-5 * time.Minute) }, bundle.CodeGrantExpired, "expired"},
		{"another node's", "echo", func(g *grant.Grant) { g.Node = r.node("n2").String() }, bundle.CodeGrantInvalid, "not for this node"},
		{"another tenant's", "echo", func(g *grant.Grant) { g.Tenant = "acme" }, bundle.CodeGrantInvalid, "acme"},
		{"another gateway's", "echo", func(g *grant.Grant) { g.Gateway = "dmz" }, bundle.CodeGrantInvalid, "dmz"},
		{"a client's", "echo", func(g *grant.Grant) { g.Ingress = r.job("nightly").String() }, bundle.CodeGrantInvalid, "ingress"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := r.open(t.Context(), node, tc.store, tc.change)
			var refused *bundle.RefusedError
			if !errors.As(err, &refused) || refused.Reason != tc.want || !strings.Contains(refused.Text, tc.words) {
				t.Errorf("open: %v, want %v with %q", err, tc.want, tc.words)
			}
		})
	}
	t.Run("no grant", func(t *testing.T) {
		for _, g := range []string{"", "garbage", "a.b.c"} {
			_, err := r.own.Open(t.Context(), bundle.Request{Grant: g})
			var refused *bundle.RefusedError
			if !errors.As(err, &refused) || refused.Reason != bundle.CodeGrantInvalid {
				t.Errorf("open with %q: %v", g, err)
			}
		}
	})
	t.Run("signed by a stranger", func(t *testing.T) {
		stranger := startRelay(t, relayOptions{noQUIC: true, noTLS: true})
		_, err := r.own.Open(t.Context(), bundle.Request{Grant: stranger.grant(node, "echo", func(g *grant.Grant) { g.Ingress = r.id.String() })})
		var refused *bundle.RefusedError
		if !errors.As(err, &refused) || refused.Reason != bundle.CodeGrantInvalid {
			t.Errorf("open: %v", err)
		}
	})
	if rep := p.status(func(*Report) bool { return true }); rep.Streams != 0 || rep.Runs != 0 {
		t.Errorf("refused dials count: %+v", rep)
	}
}

func TestRevoked(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	p := start(t, r, portOf(echo(t).Addr()))
	<-p.ready
	v := r.next(tunnel.RoleControl)
	node := r.node("n1")
	mine, err := r.open(t.Context(), node, "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := r.open(t.Context(), node, "echo", func(g *grant.Grant) { g.Job, g.Run = "weekly", "w" })
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Notify(tunnel.TypeRevoked, tunnel.Revoked{Job: "nightly"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-mine.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the revoked job's stream goes on")
	}
	if got := exchange(t, other, 1000); got.Reason != bundle.CodeOK {
		t.Errorf("another job's stream: %+v", got)
	}
	_, err = r.open(t.Context(), node, "echo", nil)
	var refused *bundle.RefusedError
	if !errors.As(err, &refused) || refused.Reason != bundle.CodeRevoked {
		t.Errorf("a dial of the revoked job: %v", err)
	}
	// A message that nobody knows is answered, not ignored.
	var answer struct{}
	err = v.Call(t.Context(), "dance", nil, &answer)
	var said *tunnel.Error
	if !errors.As(err, &said) || said.ErrCode != "message-unknown" {
		t.Errorf("an unknown message: %v", err)
	}
}

// The preamble of a lane is a claim, which is compared with what was verified.
func TestLaneRefused(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	p := start(t, r, 1)
	<-p.ready
	v := r.next(tunnel.RoleControl)
	node := r.node("n1").String()
	foreign := r.job("nightly")
	foreign.Tenant = "acme"
	for name, join := range map[string]tunnel.Join{
		"another relay":  {Ingress: strings.Replace(r.id.String(), "r1", "r2", 1), Node: node},
		"another node":   {Ingress: r.id.String(), Node: r.node("n2").String()},
		"another tenant": {Ingress: foreign.String(), Node: node},
		"a node":         {Ingress: node, Node: node},
		"nobody":         {Node: node},
		"garbage":        {Ingress: "http://x", Node: node},
		"a mute client":  {Ingress: r.job("nightly").String(), Node: node},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := v.OpenLane(t.Context(), join)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if name == "a mute client" {
				return // the handshake ends with the session
			}
			_ = stream.SetReadDeadline(time.Now().Add(5 * time.Second)) // less than a HELLO may take
			var late net.Error                                          // not every stream's is os.ErrDeadlineExceeded
			if _, err := stream.Read(make([]byte, 1)); err == nil || errors.As(err, &late) && late.Timeout() {
				t.Errorf("the lane is open: %v", err)
			}
		})
	}
}

// A client's lane: TLS between client and node inside the stream, which the
// relay joins to the client's.
func TestClientLane(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	p := start(t, r, portOf(echo(t).Addr()))
	<-p.ready
	v := r.next(tunnel.RoleControl)
	node, job := r.node("n1"), r.job("nightly")
	lane := func(as string) (*bundle.Bundle, error) {
		stream, err := v.OpenLane(t.Context(), tunnel.Join{Ingress: job.String(), Node: node.String(), Express: true})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tunnel.ServeLane(t.Context(), stream, r.clientTLS(as, node))
		if err != nil {
			return nil, err
		}
		exporter, err := conn.Exporter()
		if err != nil {
			t.Fatal(err)
		}
		b := bundle.NewIngress(bundle.Config{Incarnation: 9})
		t.Cleanup(func() { b.Close(bundle.CodeIngressStopped) })
		return b, b.Join(t.Context(), conn, bundle.LaneInfo{Carrier: "tls", Local: job.String(), Peer: node.String(), Exporter: exporter, Express: true})
	}
	b, err := lane("nightly")
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{"echo", "clients"} {
		s, err := b.Open(t.Context(), bundle.Request{UUID: [16]byte{1, byte(len(store))}, Grant: r.grant(node, store, func(g *grant.Grant) { g.Ingress = job.String() })})
		if err != nil {
			t.Fatal(err)
		}
		if got := exchange(t, s, 1<<20); got.Reason != bundle.CodeOK {
			t.Errorf("report %+v", got)
		}
	}
	// A grant for the relay's ingress is none for this one, nor is another job's.
	for _, change := range []func(*grant.Grant){nil, func(g *grant.Grant) { g.Ingress, g.Job = job.String(), "weekly" }} {
		var refused *bundle.RefusedError
		if _, err := b.Open(t.Context(), bundle.Request{UUID: [16]byte{2}, Grant: r.grant(node, "echo", change)}); !errors.As(err, &refused) || refused.Reason != bundle.CodeGrantInvalid {
			t.Errorf("open: %v", err)
		}
	}
	// Who is not the job that the preamble names gets no lane.
	if _, err := lane("weekly"); err == nil {
		t.Error("a lane of another job was served")
	}
}

// When the connector stops, every ingress learns it at once, and a stream is
// reset, not ended.
func TestStop(t *testing.T) {
	for _, carrier := range []config.Carrier{config.CarrierTLS, config.CarrierQUIC} {
		t.Run(string(carrier), func(t *testing.T) {
			r := startRelay(t, relayOptions{})
			p := start(t, r, portOf(echo(t).Addr()), carrier)
			<-p.ready
			r.next(tunnel.RoleControl)
			s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			here, there := socketPair(t)
			report := make(chan bundle.Report, 1)
			go func() { report <- s.Carry(there, nil) }()
			if _, err := io.WriteString(here, "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(here, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			p.stop()
			if took := time.Since(begin); took > 20*time.Second || p.err != nil {
				t.Errorf("stopping took %v: %v", took, p.err)
			}
			if got := <-report; got.Reason != bundle.CodeNodeStopped || !got.Remote {
				t.Errorf("the stream ended with %v", got.Reason)
			}
			if _, err := here.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the job read %v, want a reset", err)
			}
			<-r.own.Done()
		})
	}
}

func TestNotRegistered(t *testing.T) {
	file := &config.Connector{StateDir: shortDir(t), Proxy: config.Proxy{Mode: config.ProxyNone}}
	p := run(t, file)
	wantSpoken(t, p.ended(), "not-registered", "registration", "connector register")
}

func TestStateDirIsLocked(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	p := start(t, r, 1)
	<-p.ready
	second := run(t, p.c.cfg.File)
	wantSpoken(t, second.ended(), "connector-running", "config", p.dir, "process ")
}

// Damage is told with what to do about it, and never repaired by guessing.
func TestCorruptState(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	opt := r.options(t)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	registrationPath, identityPath := filepath.Join(opt.File.StateDir, fileRegistration), filepath.Join(opt.File.StateDir, "identity.pem")
	registrationRaw, err := os.ReadFile(registrationPath)
	if err != nil {
		t.Fatal(err)
	}
	identityRaw, err := os.ReadFile(identityPath)
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(old, to string) string { return strings.Replace(string(registrationRaw), old, to, 1) }
	for _, tc := range []struct {
		name, registration, identity string // "-": missing
		code                         string
	}{
		{"registration empty", "", string(identityRaw), "registration-corrupt"},
		{"registration missing", "-", string(identityRaw), "registration-corrupt"},
		{"registration cut", string(registrationRaw[:40]), string(identityRaw), "registration-corrupt"},
		{"registration doubled", string(registrationRaw) + string(registrationRaw), string(identityRaw), "registration-corrupt"},
		{"registration of zeros", strings.Repeat("\x00", len(registrationRaw)), string(identityRaw), "registration-corrupt"},
		{"registration of another node", replaced("node/n1", "node/n2"), string(identityRaw), "registration-corrupt"},
		{"registration of a newer program", replaced(`"version": 1`, `"version": 9`), string(identityRaw), "registration-corrupt"},
		{"registration without a relay", replaced("127.0.0.1", ""), string(identityRaw), "registration-corrupt"},
		{"registration of an array", "[]", string(identityRaw), "registration-corrupt"},
		{"identity missing", string(registrationRaw), "-", "registration-corrupt"},
		{"identity empty", string(registrationRaw), "", "identity-corrupt"},
		{"identity cut", string(registrationRaw), string(identityRaw[:len(identityRaw)/2]), "identity-corrupt"},
		{"identity flipped", string(registrationRaw), string(identityRaw[:200]) + "A" + string(identityRaw[201:]), "identity-corrupt"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for path, content := range map[string]string{registrationPath: tc.registration, identityPath: tc.identity} {
				if content == "-" {
					_ = os.Remove(path)
				} else {
					write(t, path, content)
				}
			}
			p := run(t, opt.File)
			wantSpoken(t, p.ended(), tc.code, "registration", "backup")
		})
	}
}
