//go:build unix

package faults

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	proxyMain()
	path, remove, err := rig.Build(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = path
	flag.Parse()
	if err := flag.Set("test.parallel", "12"); err != nil { // they mostly wait
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

// path is a whole path: relay, connector, store, job with a forward and at the relay's ingress, and where the options say
// so links and a proxy in between.
type path struct {
	t         *testing.T
	gateway   string
	carrier   string
	program   rig.Program
	relay     *rig.Relay
	links     []*link // nearLink and farLink; nil: there is none
	store     *oracle.StoreProcess
	connector *rig.Connector
	forward   *rig.Forward
	local     string // where the forward listens, again and again
	ingress   rig.Ingress
	rough     bool // a stream may need several attempts to begin
}

// The links of a path.
const (
	nearLink = iota // between the forward and the relay
	farLink         // between the connector and the relay
)

// options say what a path is like.
type options struct {
	carrier string
	grace   string // for how long streams wait for their lanes; default 120 s
	near    bool   // with nearLink
	far     bool   // with farLink
	proxy   string // of the connector, a URL
	store   *path  // whose forward is the connector's store; nil: a store of its own
	env     []string

	// Of several paths at one relay, or at two.
	relay   *rig.Relay // nil: one of its own
	second  *rig.Relay // where both ends have a session, too, and odd paths their ingress; nil: there is none
	number  int
	metrics string // where the connector has its metrics; empty: nowhere
}

func (o options) program() rig.Program {
	grace := cmp.Or(o.grace, "120s")
	return rig.Program{Path: binary, Env: append([]string{
		"EBBGATE_RELAYD_RESUME_GRACE=" + grace, "EBBGATE_CONNECTOR_RESUME_GRACE=" + grace, "EBBGATE_RESUME_GRACE=" + grace,
	}, o.env...)}
}

// named is a name of the path; the first one's is plain.
func (o options) named(name string) string {
	if o.number == 0 {
		return name
	}
	return fmt.Sprintf("%s%d", name, o.number)
}

// startRelay starts a relay that comes back at the same ports.
func startRelay(ctx context.Context, t *testing.T, o options, config map[string]any) *rig.Relay {
	t.Helper()
	return startRelayOf(ctx, t, o, rig.RelayOptions{Config: config})
}

// startRelayOf does it for one of several.
func startRelayOf(ctx context.Context, t *testing.T, o options, r rig.RelayOptions) *rig.Relay {
	t.Helper()
	r.Dir, r.Connect, r.HTTP, r.Flags = filepath.Join(t.TempDir(), "relay"), rig.FreePort(t), rig.FreePort(t), []string{"--drain-timeout", "0s"}
	relay, err := rig.StartRelay(ctx, o.program(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, "relay", relay.Kill, relay.Tail) })
	return relay
}

// newPath starts a path.
func newPath(ctx context.Context, t *testing.T, o options) *path {
	t.Helper()
	p := &path{
		t: t, links: make([]*link, 2), program: o.program(), relay: o.relay, carrier: o.carrier, local: rig.FreePort(t),
		gateway: o.named(gateway),
	}
	if p.relay == nil {
		p.relay = startRelay(ctx, t, o, nil)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := p.relay.CreateGateway(ctx, p.gateway)
	check(err)
	name := o.named(job)
	token, err := p.relay.CreateJob(ctx, name, p.gateway+"/"+object)
	check(err)
	relays := []*rig.Relay{p.relay}
	if o.second != nil {
		relays = append(relays, o.second)
	}
	p.ingress = rig.Ingress{Addr: relays[o.number%len(relays)].Connect, Job: name, Token: token}
	var address string
	if o.store != nil {
		p.store, address = o.store.store, o.store.local
	} else {
		p.store, err = oracle.StartStore(ctx, nil, "127.0.0.1:0")
		check(err)
		t.Cleanup(p.store.Kill)
		address = p.store.Addr()
	}
	for i, linked := range []bool{nearLink: o.near, farLink: o.far} {
		if linked {
			p.links[i] = newLink(t)
		}
	}
	config := make(map[string]any)
	if o.metrics != "" {
		config["metrics"] = o.metrics
	}
	var far []map[string]any
	for i, r := range relays {
		tls, http := p.through(farLink, r, linkHost(i, o.number, farLink))
		host, _, _ := net.SplitHostPort(tls)
		far = append(far, map[string]any{"host": host, "tls": port(t, tls), "quic": port(t, tls), "http": port(t, http)})
	}
	if len(far) > 1 {
		config["relay"] = far // there are no others
	}
	p.connector, err = rig.StartConnector(ctx, p.program, rig.ConnectorOptions{
		Dir: filepath.Join(t.TempDir(), "connector"), Key: keys.Key1, Name: node, Proxy: rig.Proxy{URL: o.proxy},
		Endpoint: far[0], Carriers: []string{o.carrier}, Stores: []rig.Store{rig.Loopback(object, address)}, Config: config,
	})
	check(err)
	t.Cleanup(func() { ended(t, "connector", p.connector.Kill, p.connector.Tail) })
	_, err = p.relay.Await(ctx, p.gateway, node, func(n rig.Node) bool {
		return rig.Online(n) && (o.second == nil || len(n.Relays) == len(relays))
	})
	check(err)
	var near []string
	httpPort := ""
	for i, r := range relays {
		tls, http := p.through(nearLink, r, linkHost(i, o.number, nearLink))
		if near = append(near, tls); i == 0 {
			httpPort = strconv.Itoa(port(t, http))
		}
	}
	p.forward, err = rig.StartForward(ctx, p.program, rig.ForwardOptions{
		Dir: filepath.Join(t.TempDir(), "job"), Relay: strings.Join(near, ","), HTTPPort: httpPort, Token: token,
		Target: p.gateway + "/" + object, Listen: p.local, Carriers: []string{o.carrier},
	})
	check(err)
	t.Cleanup(func() { ended(t, "forward", p.forward.Kill, p.forward.Tail) })
	return p
}

// through gives where a relay's ports are reached: by the link, if there is one, at the host.
func (p *path) through(at int, r *rig.Relay, host string) (tls, http string) {
	l := p.links[at]
	if l == nil {
		return r.Address, r.HTTP
	}
	return l.forward(host, r.TLS), l.forward(host, r.HTTP)
}

// linkHost is an address for a path's link to a relay, which only that has.
func linkHost(relay, number, at int) string { return fmt.Sprintf("127.0.%d.%d", relay, 2+2*number+at) }

func port(t *testing.T, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func ended(t *testing.T, name string, kill func(), tail func() string) {
	kill()
	if t.Failed() {
		t.Logf("output of the %s ends:\n%s", name, tail())
	}
}

// dial opens a connection by an ingress: "forward", beside the job, or "connect", in the relay.
func (p *path) dial(ctx context.Context, ingress string) (*net.TCPConn, error) {
	if ingress == "connect" {
		return p.ingress.Dial(ctx, object+"."+p.gateway+":0")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.local)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
