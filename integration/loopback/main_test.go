package loopback

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// binary is the path of ebbgate.
var binary string

func TestMain(m *testing.M) {
	oracle.ChildMain()
	childMain()
	path, remove, err := rig.Build(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = path
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil { // they mostly wait
		panic(err)
	}
	code := m.Run()
	remove()
	os.Exit(code)
}

// carriers are those on which everything must hold.
var carriers = []string{"quic", "tls"}

// ingresses are the ways in which a job enters.
var ingresses = []string{"connect", "forward"}

// ingressesOfRelay is the relay's own configuration of them.
var ingressesOfRelay = map[string]any{"connect": "127.0.0.1:0", "socks5": "127.0.0.1:0", "https": true}

// deadline bounds a whole test.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// watch shows the end of a process' output if the test failed, and ends the process: gracefully if stop is set, which
// it must then obey.
func watch(t *testing.T, p *proc.Process, stop bool) {
	t.Helper()
	t.Cleanup(func() {
		if stop {
			if err := p.Stop(10 * time.Second); err != nil {
				t.Errorf("%s does not end well: %v", p.Name(), err)
			}
		} else {
			p.Kill()
		}
		if t.Failed() {
			t.Logf("output of %s ends:\n%s", p.Name(), p.Tail())
		}
	})
}

// startRelay starts a relay that has never been anything.
func startRelay(ctx context.Context, t *testing.T) *rig.Relay {
	t.Helper()
	relay, err := rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{
		Dir: filepath.Join(t.TempDir(), "relay"), Config: map[string]any{"ingress": ingressesOfRelay},
	})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, relay.Process, true)
	return relay
}

// The names that a company uses.
const (
	corp  = "corp" // its gateway, unless it is told another name
	store = "objects"
	job   = "copy"
	node  = "node1"
)

// company is a whole path: relay, gateway, one connector, one store, a job.
type company struct {
	relay     *rig.Relay
	carrier   string // of the connector's session, and of a forward's
	gateway   string
	keys      rig.Keys
	store     *oracle.StoreProcess
	connector *rig.Connector
	ingress   rig.Ingress
	forward   *rig.Forward // nil until startForward
}

// newCompany starts a path with a relay of its own.
func newCompany(ctx context.Context, t *testing.T, carrier string) *company {
	t.Helper()
	return joinRelay(ctx, t, startRelay(ctx, t), carrier, corp)
}

// joinRelay starts a path with a gateway of its own at a relay.
func joinRelay(ctx context.Context, t *testing.T, relay *rig.Relay, carrier, gateway string) *company {
	t.Helper()
	c := &company{relay: relay, carrier: carrier, gateway: gateway}
	var err error
	if c.keys, err = relay.CreateGateway(ctx, gateway); err != nil {
		t.Fatal(err)
	}
	c.ingress = c.newJob(ctx, t, job+"-"+gateway, store)
	if c.store, err = oracle.StartStore(ctx, nil, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.store.Kill() })
	c.connector = c.newConnector(ctx, t, node, rig.Loopback(store, c.store.Addr()))
	return c
}

// target names one of the company's stores for a forward, host for CONNECT.
func (c *company) target(store string) string { return c.gateway + "/" + store }

func (c *company) host(store string) string { return store + "." + c.gateway + ":0" }

// newJob makes a job that may dial the stores, and its way in.
func (c *company) newJob(ctx context.Context, t *testing.T, name string, stores ...string) rig.Ingress {
	t.Helper()
	var targets []string
	for _, s := range stores {
		targets = append(targets, c.target(s))
	}
	token, err := c.relay.CreateJob(ctx, name, targets...)
	if err != nil {
		t.Fatal(err)
	}
	return rig.Ingress{Addr: c.relay.Connect, Job: name, Token: token}
}

// newConnector registers and starts a connector of the company's gateway, and waits until it is online.
func (c *company) newConnector(ctx context.Context, t *testing.T, name string, stores ...rig.Store) *rig.Connector {
	t.Helper()
	connector, err := rig.StartConnector(ctx, rig.Program{Path: binary}, rig.ConnectorOptions{
		Dir: filepath.Join(t.TempDir(), "connector"), Relay: c.relay.Address, Key: c.keys.Key1, Name: name,
		Carriers: []string{c.carrier}, Stores: stores,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // a test may have restarted it
		connector.Kill()
		if t.Failed() {
			t.Logf("output of connector %s ends:\n%s", name, connector.Tail())
		}
	})
	n, err := c.relay.Await(ctx, c.gateway, name, rig.Online)
	if err != nil {
		t.Fatal(err)
	}
	if n.Carrier != c.carrier {
		t.Fatalf("node %s is on carrier %q, want %q", name, n.Carrier, c.carrier)
	}
	return connector
}

// startForward starts the job's forward to the company's store.
func (c *company) startForward(ctx context.Context, t *testing.T) {
	t.Helper()
	forward, err := c.newForward(ctx, t, c.ingress.Token, store)
	if err != nil {
		t.Fatal(err)
	}
	c.forward = forward
}

func (c *company) newForward(ctx context.Context, t *testing.T, token, store string) (*rig.Forward, error) {
	t.Helper()
	forward, err := rig.StartForward(ctx, rig.Program{Path: binary}, rig.ForwardOptions{
		Dir: filepath.Join(t.TempDir(), "job"), Relay: c.relay.Address, Token: token, Target: c.target(store),
		Carriers: []string{c.carrier},
	})
	if err == nil {
		watch(t, forward.Process, false)
	}
	return forward, err
}

// dial opens a stream to the company's store by an ingress.
func (c *company) dial(ctx context.Context, ingress string) (*net.TCPConn, error) {
	if ingress == "connect" {
		return c.ingress.Dial(ctx, c.host(store))
	}
	return dial(ctx, c.forward.Addr)
}

func dial(ctx context.Context, addr string) (*net.TCPConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
