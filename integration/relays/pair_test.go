//go:build linux

package relays

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"

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

func startConnector(ctx context.Context, t *testing.T, o rig.ConnectorOptions) *rig.Connector {
	t.Helper()
	o.Dir = t.TempDir()
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
	startConnector(ctx, t, rig.ConnectorOptions{
		Relay: p.a.Address, Key: keys.Key1, Name: "node1", Override: p.b.Address, Carriers: []string{"tls"},
		Stores: []rig.Store{rig.Loopback("erp", echo(t))},
	})
	token, err := p.a.CreateJob(ctx, "copy", "corp/erp")
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(ctx, p.b, "copy", token); err != nil {
		t.Error(err)
	}
	if there, _ := filepath.Glob(filepath.Join(p.b.Dir, "state", "state.db*")); len(there) > 0 {
		t.Errorf("relay on PostgreSQL keeps %v", there)
	}
}
