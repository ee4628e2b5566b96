//go:build linux

package relays

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// pair are two relays of one instance.
type pair struct {
	server   *postgrestest.Server
	database string
	a, b     *rig.Relay
}

// startPair starts a server and two relays on it; the second joins.
func startPair(ctx context.Context, t *testing.T) *pair {
	t.Helper()
	p := &pair{server: postgrestest.Start(t)}
	p.database = p.server.Database(t)
	p.a = startRelay(ctx, t, rig.RelayOptions{Hostname: "127.0.0.1", Postgres: p.database})
	p.b = startRelay(ctx, t, rig.RelayOptions{Hostname: "127.0.0.2", Postgres: p.database, KeyOf: p.a})
	return p
}

func startRelay(ctx context.Context, t *testing.T, o rig.RelayOptions) *rig.Relay {
	t.Helper()
	o.Dir = t.TempDir()
	r, err := rig.StartRelay(ctx, rig.Program{Path: binary}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Kill()
		if t.Failed() {
			t.Logf("relay %s:\n%s", r.Address, r.Tail())
		}
	})
	return r
}

// echo is a store that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-over })
	return l.Addr().String()
}

// connector registers node1 at the first relay and runs it at one of them only.
func (p *pair) connector(ctx context.Context, t *testing.T, key string, at *rig.Relay) *rig.Connector {
	t.Helper()
	o := rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: p.a.Address, Key: key, Name: "node1", Only: at.Address, Carriers: []string{"tls"},
		Stores: []rig.Store{rig.Loopback("erp", echo(t))},
	}
	c, err := rig.StartConnector(ctx, rig.Program{Path: binary}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Kill()
		if t.Failed() {
			t.Logf("connector %s:\n%s", o.Name, c.Tail())
		}
	})
	return c
}

// ask dials the store at a relay's CONNECT ingress and says something.
func ask(ctx context.Context, r *rig.Relay, job, token string) error {
	conn, err := rig.Ingress{Addr: r.Connect, Job: job, Token: token}.Dial(ctx, "erp.corp:0")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	text := fmt.Sprintf("by %s", r.Address)
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	answer := make([]byte, len(text))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != text {
		return fmt.Errorf("%q: %w", answer, err)
	}
	return nil
}

// TestPair registers a node at one relay and serves it at the other, with a job
// that was made at the first.
func TestPair(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := startPair(ctx, t)
	keys, err := p.a.CreateGateway(ctx, "corp")
	if err != nil {
		t.Fatal(err)
	}
	p.connector(ctx, t, keys.Key1, p.b)
	token, err := p.a.CreateJob(ctx, "copy", "corp/erp")
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(ctx, p.b, "copy", token); err != nil {
		t.Error(err)
	}
	if _, err := p.a.AwaitRun(ctx, rig.Run{Job: "copy", Gateway: "corp", Node: "node1", Store: "erp", Streams: 1}); err != nil {
		t.Errorf("what the one relay's ingress did, the other one does not list: %v", err)
	}
	if there, _ := filepath.Glob(filepath.Join(p.b.Dir, "state", "*.db*")); len(there) > 0 {
		t.Errorf("relay on PostgreSQL keeps %v", there)
	}
}

// TestElsewhere dials at a relay that the node is not at.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := startPair(ctx, t)
	keys, err := p.a.CreateGateway(ctx, "corp")
	if err != nil {
		t.Fatal(err)
	}
	c := p.connector(ctx, t, keys.Key1, p.a)
	token, err := p.b.CreateJob(ctx, "copy", "corp/erp")
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(ctx, p.a, "copy", token); err != nil {
		t.Error(err)
	}
	if _, err := p.b.Await(ctx, "corp", "node1", func(n rig.Node) bool {
		return n.Status == "Online" && n.Carrier == "tls" && slices.Equal(n.Relays, []string{"127.0.0.1"})
	}); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, ask(ctx, p.b, "copy", token), 503, "node-elsewhere", "node1 is at relay 127.0.0.1")
	err = p.b.Admin(ctx, nil, "store", "test", "corp/erp")
	if e := (*rig.CommandError)(nil); !errors.As(err, &e) || e.Code != "node-elsewhere" {
		t.Errorf("store test: %v", err)
	}
	c.Kill()
	if _, err := p.b.Await(ctx, "corp", "node1", func(n rig.Node) bool { return n.Status == "Offline" }); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, ask(ctx, p.b, "copy", token), 503, "no-node-online", "")

	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := p.b.Await(ctx, "corp", "node1", rig.Online); err != nil {
		t.Fatal(err)
	}
	p.a.Kill() // what it said is not worth anything for long
	if _, err := p.b.Await(ctx, "corp", "node1", func(n rig.Node) bool { return n.Status == "Offline" }); err != nil {
		t.Fatal(err)
	}
}

func wantRefused(t *testing.T, err error, status int, code, text string) {
	t.Helper()
	var e *rig.ConnectError
	if !errors.As(err, &e) || e.Status != status || e.Code != code || !strings.Contains(e.Error(), text) {
		t.Errorf("got %v, want %d %s with %q", err, status, code, text)
	}
}

// TestCopiedIdentity starts a copy of a connector, state and all, at the other
// relay: it is sent away, and the first one stays.
func TestCopiedIdentity(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := startPair(ctx, t)
	keys, err := p.a.CreateGateway(ctx, "corp")
	if err != nil {
		t.Fatal(err)
	}
	first := p.connector(ctx, t, keys.Key1, p.a)
	copied := t.TempDir()
	copyFiles(t, filepath.Join(first.Options.Dir, "state"), filepath.Join(copied, "state"))
	o := first.Options
	o.Dir, o.Only = copied, p.b.Address
	second, err := rig.Configure(rig.Program{Path: binary}, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		second.Kill()
		if t.Failed() {
			t.Logf("the copy:\n%s", second.Tail())
		}
	})
	status := func(c *rig.Connector) (code string) {
		var said struct {
			LastError struct{ Code string } `json:"last_error"`
		}
		_ = c.Program.Run(ctx, &said, "connector", "status", "--config", c.Config)
		return said.LastError.Code
	}
	await(ctx, t, "the copy is sent away", func() bool { return status(second) == "identity-in-use" })
	if _, err := p.b.Await(ctx, "corp", "node1", func(n rig.Node) bool { return slices.Equal(n.Relays, []string{"127.0.0.1"}) }); err != nil {
		t.Fatal(err)
	}
	token, err := p.a.CreateJob(ctx, "copy", "corp/erp")
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(ctx, p.a, "copy", token); err != nil {
		t.Error(err)
	}
}

// copyFiles copies a folder's files, but not its sockets.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if !f.Type().IsRegular() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func await(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("in vain: %s", what)
		}
	}
}
