//go:build linux

package corporate

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/lab"
	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// What TestMain brings up for all tests: the lab with its stores, and one relay in its cloud.
var (
	binary   string
	network  *lab.Lab
	relay    *rig.Relay
	source   *lab.Postgres // in corp
	restored *lab.Postgres // in the cloud
	web      *lab.Nginx    // in corp
)

func TestMain(m *testing.M) {
	oracle.ChildMain()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if err := lab.Missing(); err != nil {
		fmt.Fprintf(os.Stderr, "\n*** THE TESTS WITH REAL PROXIES AND STORES DO NOT RUN: %v ***\n\n", err)
		return m.Run() // each says so and skips
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	path, remove, err := rig.Build(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	binary = path
	began := time.Now()
	network, err = lab.Start(ctx, []lab.Kind{lab.Open, lab.Basic, lab.NTLM, lab.NTLMClose, lab.Inspect},
		func(ctx context.Context, l *lab.Lab) (err error) {
			source, err = l.StartPostgres(ctx, l.Corp, 5432)
			return err
		},
		func(ctx context.Context, l *lab.Lab) (err error) {
			restored, err = l.StartPostgres(ctx, l.Cloud, 5433)
			return err
		},
		func(ctx context.Context, l *lab.Lab) (err error) {
			if web, err = l.StartNginx(ctx, l.Corp, 8080); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(web.Dir, "hello"), []byte("hello"), 0o644)
		},
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = network.Close() }()
	relay, err = rig.StartRelay(ctx, program(network.Cloud), rig.RelayOptions{
		Dir: filepath.Join(network.Dir(), "relay"), Hostname: lab.RelayName, Listen: network.Cloud.Addr() + ":443",
		HTTP: network.Cloud.Addr() + ":80", Connect: "127.0.0.1:3128",
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer relay.Kill()
	fmt.Printf("the lab and a relay are up after %v\n", time.Since(began).Round(100*time.Millisecond))
	code := m.Run()
	if code != 0 {
		fmt.Printf("output of the relay ends:\n%s\n", relay.Tail())
	}
	return code
}

// program is the binary on a host. Streams wait for their lanes as long as they do for everybody.
func program(h *lab.Host) rig.Program {
	return rig.Program{Path: binary, Where: h, Env: []string{
		"EBBGATE_RELAYD_RESUME_GRACE=120s", "EBBGATE_CONNECTOR_RESUME_GRACE=120s", "EBBGATE_RESUME_GRACE=120s",
	}}
}

// need skips the test where the lab is not, and bounds it.
func need(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	if network == nil {
		t.Skip("NOT RUN:", lab.Missing())
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// The stores of each company's connector.
var stores = []rig.Store{
	{Name: "erp-sql", Address: "sql01.corp.test:5432"},
	{Name: "files", Address: "files.corp.test:8080"},
}

// company is a gateway with one connector in corp, and a job in the cloud that may dial its stores.
type company struct {
	name      string
	keys      rig.Keys
	connector *rig.Connector
	ingress   rig.Ingress
}

const node = "node1"

// configure makes a gateway and the configuration of its connector, which leaves corp by the proxy on the carriers.
// With a proxy it knows the relay only by its name, which corp cannot resolve.
func configure(ctx context.Context, t *testing.T, proxy rig.Proxy, carriers ...string) *company {
	t.Helper()
	name := strings.ToLower(strings.Map(dash, t.Name()))
	c := &company{name: name}
	var err error
	if c.keys, err = relay.CreateGateway(ctx, name); err != nil {
		t.Fatal(err)
	}
	token, err := relay.CreateJob(ctx, "job-"+name, name+"/erp-sql", name+"/files", name+"/objects")
	if err != nil {
		t.Fatal(err)
	}
	c.ingress = rig.Ingress{Addr: relay.Connect, Job: "job-" + name, Token: token, From: network.Cloud}
	if c.connector, err = rig.Configure(program(network.Corp), rig.ConnectorOptions{
		Dir: filepath.Join(t.TempDir(), "connector"), Relay: relay.Address, Key: c.keys.Key1, Name: node,
		Carriers: carriers, Proxy: proxy, Stores: stores,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.connector.Process == nil {
			return
		}
		c.connector.Kill()
		if t.Failed() {
			t.Logf("output of the connector ends:\n%s", c.connector.Tail())
		}
	})
	return c
}

func dash(r rune) rune {
	if (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') {
		return r
	}
	return '-'
}

// start registers and starts the connector, and returns what the relay knows of the node.
func (c *company) start(ctx context.Context, t *testing.T) rig.Node {
	t.Helper()
	if err := c.connector.Register(ctx); err != nil {
		t.Fatal(err)
	}
	return c.run(ctx, t)
}

// run starts the connector, which is registered.
func (c *company) run(ctx context.Context, t *testing.T) rig.Node {
	t.Helper()
	if err := c.connector.Start(ctx); err != nil {
		t.Fatal(err)
	}
	n, err := relay.Await(ctx, c.name, node, rig.Online)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// forward starts a forward in the cloud and returns its host and port.
func (c *company) forward(ctx context.Context, t *testing.T, store string, carriers ...string) (host, port string) {
	t.Helper()
	f, err := rig.StartForward(ctx, program(network.Cloud), rig.ForwardOptions{
		Dir: filepath.Join(t.TempDir(), "job"), Relay: relay.Address, Token: c.ingress.Token, Target: c.name + "/" + store,
		Carriers: carriers,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Kill()
		if t.Failed() {
			t.Logf("output of the forward ends:\n%s", f.Tail())
		}
	})
	host, port, err = net.SplitHostPort(f.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// through returns the configuration of a proxy of the lab with an account.
func through(kind lab.Kind, user, password string) rig.Proxy {
	p := rig.Proxy{Username: user, Password: password}
	if network != nil {
		p.URL = "http://" + network.Squid(kind).Addr
	}
	return p
}

// domain is the account with which connectors pass the NTLM proxies.
func domain(kind lab.Kind) rig.Proxy { return through(kind, `CORP\`+lab.User, lab.Password) }

// run1 runs a program on a host of the lab, with an environment, and its output in a file if out is not empty.
func run1(ctx context.Context, t *testing.T, h *lab.Host, env []string, out, path string, args ...string) string {
	t.Helper()
	spec := proc.Spec{Path: path, Args: args, Env: env, Where: h}
	if out != "" {
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		spec.Stdout = f
	}
	got, err := proc.Run(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}
