package carriers

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	path, remove, err := rig.Build(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = path
	code := m.Run()
	remove()
	os.Exit(code)
}

// all are the carriers.
var all = []string{"quic", "tls", "wss", "ws"}

// table is what each carrier did in each case.
type table struct {
	mu    sync.Mutex
	cases []string // in the order in which they first came
	cells map[[2]string]string
}

func newTable() *table { return &table{cells: make(map[[2]string]string)} }

// run is a case: a failure is an error of the test and a cell of the table.
func (tb *table) run(t *testing.T, carrier, name string, f func() error) {
	t.Helper()
	began := time.Now()
	err := f()
	cell := fmt.Sprintf("%d ms", time.Since(began).Milliseconds())
	if err != nil {
		t.Errorf("%s: %s: %v", carrier, name, err)
		cell = "FAILED"
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if !slices.Contains(tb.cases, name) {
		tb.cases = append(tb.cases, name)
	}
	tb.cells[[2]string{carrier, name}] = cell
}

func (tb *table) String() string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-50s", "case")
	for _, c := range all {
		fmt.Fprintf(&b, "%12s", c)
	}
	for _, name := range tb.cases {
		fmt.Fprintf(&b, "\n%-50s", name)
		for _, c := range all {
			fmt.Fprintf(&b, "%12s", cmp.Or(tb.cells[[2]string{c, name}], "-"))
		}
	}
	return b.String()
}

// watch shows the end of a process' output if the test failed, and ends it.
func watch(t *testing.T, p *proc.Process) {
	t.Helper()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s ends:\n%s", p.Name(), p.Tail())
		}
	})
}

func startRelay(ctx context.Context, t *testing.T) *rig.Relay {
	t.Helper()
	relay, err := rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{Dir: filepath.Join(t.TempDir(), "relay")})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, relay.Process)
	return relay
}

const (
	store = "objects"
	node  = "node1"
	job   = "copy"
)

// path is a gateway with one connector and a forward, on one carrier.
type path struct {
	relay     *rig.Relay
	carrier   string
	gateway   string
	key       string
	token     string
	store     *oracle.StoreProcess
	connector *rig.Connector
	forward   *rig.Forward
}

// newPath makes what is needed at the relay, and a store.
func newPath(ctx context.Context, t *testing.T, relay *rig.Relay, carrier, gateway string) *path {
	t.Helper()
	p := &path{relay: relay, carrier: carrier, gateway: gateway}
	keys, err := relay.CreateGateway(ctx, gateway)
	if err != nil {
		t.Fatal(err)
	}
	p.key = keys.Key1
	if p.token, err = relay.CreateJob(ctx, job+"-"+gateway, gateway+"/"+store); err != nil {
		t.Fatal(err)
	}
	if p.store, err = oracle.StartStore(ctx, nil, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	watch(t, p.store.Process)
	return p
}

// register makes the connector a node, over the carriers and through a proxy.
func (p *path) register(ctx context.Context, t *testing.T, proxy rig.Proxy, carriers ...string) (err error) {
	p.connector, err = rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{
		Dir: filepath.Join(t.TempDir(), "connector"), Endpoint: p.relay.Endpoint(), Key: p.key, Name: node,
		Carriers: carriers, Proxy: proxy, Stores: []rig.Store{rig.Loopback(store, p.store.Addr())},
	})
	if err != nil {
		return err
	}
	if err := p.connector.Register(ctx); err != nil {
		return err
	}
	return p.expect("registered", p.connector.Enrolled)
}

// online starts the connector and waits until the relay has it.
func (p *path) online(ctx context.Context, t *testing.T) error {
	if err := p.connector.Start(ctx); err != nil {
		return err
	}
	watch(t, p.connector.Process)
	n, err := p.relay.Await(ctx, p.gateway, node, rig.Online)
	if err != nil {
		return err
	}
	if err := p.expect("online", n.Carrier); err != nil || p.carrier == "quic" {
		return err
	}
	return p.awaitBulk(ctx)
}

// awaitBulk waits until the connector has its second session, on the same carrier.
func (p *path) awaitBulk(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var status struct {
			Sessions []struct{ Role, Carrier string }
		}
		if err := p.connector.Program.Run(ctx, &status, "connector", "status", "--config", p.connector.Config); err != nil {
			return err
		}
		for _, s := range status.Sessions {
			if err := p.expect("session "+s.Role, s.Carrier); err != nil {
				return err
			}
			if s.Role == "bulk" {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no bulk session: %w", ctx.Err())
		}
	}
}

func (p *path) expect(what, carrier string) error {
	if carrier != p.carrier {
		return fmt.Errorf("%s over %q, want %q", what, carrier, p.carrier)
	}
	return nil
}

// startForward enrols the job and opens its sessions, over the carrier only.
func (p *path) startForward(ctx context.Context, t *testing.T) (err error) {
	_, port, err := net.SplitHostPort(p.relay.HTTP)
	if err != nil {
		return err
	}
	p.forward, err = rig.StartForward(ctx, rig.Program{Path: binary}, rig.ForwardOptions{
		Dir: filepath.Join(t.TempDir(), "job"), Relay: p.relay.Address, HTTPPort: port, Token: p.token,
		Target: p.gateway + "/" + store, Carriers: []string{p.carrier},
	})
	if err == nil {
		watch(t, p.forward.Process)
	}
	return err
}

// ingresses are the ways in which a job enters.
var ingresses = []string{"connect", "forward"}

func (p *path) dial(ctx context.Context, ingress string) (*net.TCPConn, error) {
	if ingress == "connect" {
		return rig.Ingress{Addr: p.relay.Connect, Job: job + "-" + p.gateway, Token: p.token}.Dial(ctx, store+"."+p.gateway+":0")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.forward.Addr)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
