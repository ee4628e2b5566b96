//go:build unix

package faults

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ebbgate/ebbgate/integration/oracle"
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
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // they mostly wait
		panic(err)
	}
	code := m.Run()
	remove()
	// One thread starts all processes and stays.
	if err := goleak.Find(goleak.IgnoreTopFunction("github.com/ebbgate/ebbgate/integration/proc.(*Thread).run")); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// deadline bounds a whole test.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

const (
	gateway = "corp"
	object  = "objects" // the store
	job     = "copy"
	node    = "node1"
)

// path is a whole path: relay, connector behind a link, store, job with a forward and at the relay's ingress.
type path struct {
	t         *testing.T
	program   rig.Program
	relay     *rig.Relay
	link      *link // between the connector and the relay's TCP port; nil: none
	store     *oracle.StoreProcess
	connector *rig.Connector
	forward   *rig.Forward
	ingress   rig.Ingress
}

// newPath starts a path whose streams wait for their lanes as long as grace says. Where linked is set, everything of
// the connector goes over a link that the test can cut.
func newPath(ctx context.Context, t *testing.T, carrier, grace string, linked bool) *path {
	t.Helper()
	p := &path{t: t, program: rig.Program{Path: binary, Env: []string{
		"EBBGATE_RELAYD_RESUME_GRACE=" + grace, "EBBGATE_CONNECTOR_RESUME_GRACE=" + grace, "EBBGATE_RESUME_GRACE=" + grace,
	}}}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	p.relay, err = rig.StartRelay(ctx, p.program, rig.RelayOptions{
		Dir: filepath.Join(t.TempDir(), "relay"), Connect: freePort(t), Flags: []string{"--drain-timeout", "0s"},
	})
	check(err)
	t.Cleanup(func() { p.end("relay", p.relay.Kill, p.relay.Tail) })
	keys, err := p.relay.CreateGateway(ctx, gateway)
	check(err)
	token, err := p.relay.CreateJob(ctx, job, gateway+"/"+object)
	check(err)
	p.ingress = rig.Ingress{Addr: p.relay.Connect, Job: job, Token: token}
	p.store, err = oracle.StartStore(ctx, nil, "127.0.0.1:0")
	check(err)
	t.Cleanup(p.store.Kill)
	at := p.relay.Address
	if linked {
		p.link = newLink(t, p.relay.TLS)
		at = p.link.addr
	}
	p.connector, err = rig.StartConnector(ctx, p.program, rig.ConnectorOptions{
		Dir: filepath.Join(t.TempDir(), "connector"), Relay: at, Key: keys.Key1, Name: node, Override: at,
		Carriers: []string{carrier}, Stores: []rig.Store{rig.Loopback(object, p.store.Addr())},
	})
	check(err)
	t.Cleanup(func() { p.end("connector", p.connector.Kill, p.connector.Tail) })
	_, err = p.relay.Await(ctx, gateway, node, rig.Online)
	check(err)
	p.forward, err = rig.StartForward(ctx, p.program, rig.ForwardOptions{
		Dir: filepath.Join(t.TempDir(), "job"), Relay: p.relay.Address, Token: token, Target: gateway + "/" + object, Carriers: []string{carrier},
	})
	check(err)
	t.Cleanup(func() { p.end("forward", p.forward.Kill, p.forward.Tail) })
	return p
}

func (p *path) end(name string, kill func(), tail func() string) {
	kill()
	if p.t.Failed() {
		p.t.Logf("output of the %s ends:\n%s", name, tail())
	}
}

// dial opens a connection by an ingress: "forward", beside the job, or "connect", in the relay.
func (p *path) dial(ctx context.Context, ingress string) (*net.TCPConn, error) {
	if ingress == "connect" {
		return p.ingress.Dial(ctx, object+"."+gateway+":0")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.forward.Addr)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
