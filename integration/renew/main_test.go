//go:build unix

package renew

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/ebbgate/ebbgate/client"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/connector"
	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/relay"
	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

func TestMain(m *testing.M) {
	// One thread starts all processes and stays.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/ebbgate/ebbgate/integration/proc.(*Thread).run"))
}

const (
	gateway = "corp"
	object  = "objects"
	job     = "nightly"
	loop    = "127.0.0.1"
)

// company is everything between a job and its store, in this process.
type company struct {
	t        *testing.T
	relay    relay.Ready
	token    string
	store    *store
	forward  string // address
	registry map[string]*prometheus.Registry
}

func (c *company) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// logger takes what a program says where the test fails.
func (c *company) logger(name string) *slog.Logger {
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: level})).With("program", name)
}

// program runs something until the test is over.
func (c *company) program(run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			c.t.Error(err)
		}
	})
}

// newCompany starts a relay whose certificates live so long, and a connector and a client on a carrier.
func newCompany(t *testing.T, carrier string, lives relay.Lives) *company {
	t.Helper()
	c := &company{t: t, registry: make(map[string]*prometheus.Registry), store: newStore(t)}
	for _, name := range []string{"relay", "connector", "client"} {
		c.registry[name] = prometheus.NewRegistry()
	}
	c.startRelay(lives)
	c.startConnector(carrier)
	c.startClient(carrier)
	return c
}

func (c *company) startRelay(lives relay.Lives) {
	dir, err := os.MkdirTemp("", "renew") // short: it holds a Unix socket
	c.check(err)
	c.t.Cleanup(func() { os.RemoveAll(dir) })
	ready := make(chan relay.Ready, 1)
	r, err := relay.New(relay.Config{
		File: &config.Relay{
			Hostname: loop, Listen: config.RelayListen{TLS: loop + ":0", QUIC: loop + ":0", HTTP: loop + ":0"},
			Ingress: config.RelayIngress{Ports: []config.RelayPort{{RelayDoor: config.RelayDoor{Listen: loop + ":0"}, Gateway: gateway, Store: object, Job: job}}},
			State:   config.RelayState{Dir: dir, KeyFile: dir + "/state.key"}, ResumeGrace: time.Minute,
		},
		Init: true, Lives: lives, Registry: c.registry["relay"], Logger: c.logger("relay"),
		Ready: func(r relay.Ready) { ready <- r },
	})
	c.check(err)
	c.program(r.Run)
	c.relay = <-ready
	api, err := admin.Dial(c.relay.API)
	c.check(err)
	_, err = api.CreateGateway(c.t.Context(), "default", gateway)
	c.check(err)
	created, err := api.CreateJob(c.t.Context(), "default", job, []string{gateway + "/" + object})
	c.check(err)
	c.token = created.Token
}

func (c *company) startConnector(carrier string) {
	api, err := admin.Dial(c.relay.API)
	c.check(err)
	keys, err := api.GatewayKeys(c.t.Context(), "default", gateway)
	c.check(err)
	none := func(string) string { return "" }
	file := &config.Connector{
		StateDir: c.t.TempDir(), Carriers: []config.Carrier{config.Carrier(carrier)}, ResumeGrace: time.Minute,
		Stores: []config.Store{{
			Name: object, Host: loop, Port: c.store.port, AllowSpecial: []config.Special{config.SpecialLoopback},
			Ingress: []config.IngressKind{config.IngressRelay, config.IngressClient},
		}},
	}
	_, err = connector.Register(c.t.Context(), connector.Options{
		File: file, KeyFile: "-", Stdin: strings.NewReader(keys.Key1), Name: "node1", Environment: none,
		Relay: &config.Endpoint{Host: loop, TLS: portOf(c.relay.TLS), QUIC: portOf(c.relay.QUIC), HTTP: portOf(c.relay.HTTP)}, Logger: c.logger("register"),
	})
	c.check(err)
	ready := make(chan struct{})
	p, err := connector.New(connector.Config{
		File: file, Environment: none, Registry: c.registry["connector"], Logger: c.logger("connector"),
		Ready: func(connector.Ready) { close(ready) },
	})
	c.check(err)
	c.program(p.Run)
	<-ready
}

func (c *company) startClient(carrier string) {
	p, err := client.New(client.Config{
		Relay: c.relay.TLS, HTTPPort: portOf(c.relay.HTTP), Token: c.token, Carriers: []string{carrier}, ResumeGrace: time.Minute,
		Environment: func(string) string { return "" }, Metrics: bundle.NewMetrics(c.registry["client"]), Logger: c.logger("client"),
	})
	c.check(err)
	c.program(p.Run)
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(loop)})
	c.check(err)
	c.forward = ln.Addr().String()
	target, err := client.ParseTarget(gateway + "/" + object)
	c.check(err)
	c.program(func(ctx context.Context) error {
		summary, err := (&client.Forwarder{Client: p, Target: target, Logger: c.logger("forward")}).Run(ctx, ln)
		c.t.Logf("summary: %+v", summary)
		return err
	})
}

func portOf(address string) int {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return 0
	}
	return at.Port
}

// count is the sum of a counter's values with a label's value, or all of them.
func (c *company) count(program, metric, label string) (sum float64) {
	families, err := c.registry[program].Gather()
	c.check(err)
	for _, f := range families {
		if f.GetName() != metric {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// store sends a content on each connection until it is told to end, and takes another one.
type store struct {
	port    int
	addr    string
	enough  chan struct{}
	results chan result
}

// result is what an end took, whose far end sent so much.
type result struct {
	got  int64
	sent int64
	err  error
}

const (
	downSeed = 11
	upSeed   = 12
)

func newStore(t *testing.T) *store {
	t.Helper()
	ln, err := net.Listen("tcp", loop+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &store{addr: ln.Addr().String(), port: portOf(ln.Addr().String()), enough: make(chan struct{}), results: make(chan result, 16)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.results <- exchange(conn.(*net.TCPConn), downSeed, upSeed, s.enough, new(progress)) })
		}
	})
	t.Cleanup(func() { ln.Close(); serving.Wait() })
	return s
}

// progress is how far an end has read.
type progress struct {
	mu  sync.Mutex
	got int64
}

func (p *progress) bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got
}

// exchange sends one content until it is enough and verifies the other one.
func exchange(conn *net.TCPConn, send, read uint64, enough <-chan struct{}, at *progress) (r result) {
	defer conn.Close()
	_ = conn.SetLinger(0)
	var sending sync.WaitGroup
	var failed error
	sending.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			select {
			case <-enough:
				failed = conn.CloseWrite()
				return
			default:
			}
			oracle.Fill(buf, send, r.sent)
			n, err := conn.Write(buf)
			r.sent += int64(n)
			if err != nil {
				failed = err
				return
			}
		}
	})
	v := oracle.NewVerifier(read)
	buf := make([]byte, 256<<10)
	for {
		n, err := conn.Read(buf)
		if _, wrong := v.Write(buf[:n]); wrong != nil {
			r.err = wrong
			break
		}
		at.mu.Lock()
		at.got = v.Len()
		at.mu.Unlock()
		if err != nil {
			if err.Error() != "EOF" {
				r.err = err
			}
			break
		}
	}
	r.got = v.Len()
	if r.err != nil {
		_ = conn.Close()
	}
	sending.Wait()
	if r.err == nil {
		r.err = failed
	}
	if r.err == nil {
		_ = conn.SetLinger(-1)
	}
	return r
}
