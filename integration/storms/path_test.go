//go:build linux

package storms

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// path is a whole way from a job to a store: relay, gateway, connector, an echo as the store, a job.
type path struct {
	relay     *rig.Relay
	keys      rig.Keys
	token     string
	connector *rig.Connector
	ingress   rig.Ingress
	stream    *net.TCPConn // of the job, open all the while
	said      int
	home      int // lines of the stream so far
}

// The names of a path.
const (
	corp  = "corp"
	store = "echo"
	job   = "copy"
	host  = store + "." + corp + ":0"
)

// limits are the programs that the parts of a path are started with.
type limits struct{ relay, connector string }

// thrifty has what is free collected soon, so that one need not wait long to see that it is free.
var thrifty = []string{"GOGC=25"}

// newPath starts a path. Its relay serves on every port that there is.
func newPath(ctx context.Context, t *testing.T, carrier string, l limits) *path {
	t.Helper()
	if l.relay == "" {
		l.relay = program
	}
	if l.connector == "" {
		l.connector = program
	}
	relay, err := rig.StartRelay(ctx, rig.Program{Path: l.relay, Env: thrifty}, rig.RelayOptions{
		Dir: filepath.Join(t.TempDir(), "relay"),
		Config: map[string]any{
			"ingress": map[string]any{"connect": "127.0.0.1:0", "socks5": "127.0.0.1:0"},
			"metrics": "127.0.0.1:0",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, relay.Process, true)
	p := &path{relay: relay}
	if p.keys, err = relay.CreateGateway(ctx, corp); err != nil {
		t.Fatal(err)
	}
	if p.token, err = relay.CreateJob(ctx, job, corp+"/"+store); err != nil {
		t.Fatal(err)
	}
	p.ingress = rig.Ingress{Addr: relay.Connect, Job: job, Token: p.token}
	p.connector, err = rig.StartConnector(ctx, rig.Program{Path: l.connector, Env: thrifty}, rig.ConnectorOptions{
		Dir: filepath.Join(t.TempDir(), "connector"), Relay: relay.Address, Key: p.keys.Key1, Name: "node1",
		Carriers: []string{carrier}, Stores: []rig.Store{rig.Loopback(store, echo(t))},
	})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, p.connector.Process, false)
	if _, err := relay.Await(ctx, corp, "node1", rig.Online); err != nil {
		t.Fatal(err)
	}
	if p.stream, err = p.ingress.Dial(ctx, host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.stream.Close() })
	p.talk(ctx, t)
	return p
}

// watch shows the end of a process' output if the test failed, and ends the process: gracefully if stop is set, which
// it must then obey.
func watch(t *testing.T, p *proc.Process, stop bool) {
	t.Helper()
	t.Cleanup(func() {
		if stop {
			if err := p.Stop(30 * time.Second); err != nil {
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

// echo is a store that says everything back, half-close included.
func echo(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		conns.Wait()
	})
	return l.Addr().String()
}

// scaled is n, or with -short a twentieth of it.
func scaled(n int) int {
	if testing.Short() {
		return n / 20
	}
	return n
}

// patience is how long something legitimate may take in the middle of a storm.
const patience = 60 * time.Second

// talk uses the stream that is open all the while.
func (p *path) talk(ctx context.Context, t *testing.T) {
	t.Helper()
	p.home++
	if err := say(p.stream, fmt.Sprintf("line %d of the stream that was there before\n", p.home)); err != nil {
		t.Errorf("the stream that was there before: %v", err)
	}
}

// say writes a line and waits for its echo.
func say(conn net.Conn, line string) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != line {
		return fmt.Errorf("the echo of %q is %q", line, got)
	}
	return nil
}

// dial makes a legitimate dial, uses it and ends it well.
func (p *path) dial(ctx context.Context, t *testing.T) {
	t.Helper()
	p.said++
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := p.ingress.Dial(ctx, host)
	if err != nil {
		t.Errorf("a legitimate dial: %v", err)
		return
	}
	if err := finish(conn); err != nil {
		t.Errorf("a legitimate dial: %v", err)
	}
}

// finish says a line on a stream and ends it well.
func finish(conn *net.TCPConn) error {
	defer func() { _ = conn.Close() }()
	if err := say(conn, "a legitimate line\n"); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		return fmt.Errorf("after the last line: %q, %w", rest, err)
	}
	return nil
}

// newcomer starts a forward, which enrols and opens a session, and dials through it.
func (p *path) newcomer(ctx context.Context, t *testing.T, carrier string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	forward, err := rig.StartForward(ctx, rig.Program{Path: program}, rig.ForwardOptions{
		Dir: filepath.Join(t.TempDir(), "job"), Relay: p.relay.Address, Token: p.token, Target: corp + "/" + store,
		Carriers: []string{carrier},
	})
	if err != nil {
		t.Errorf("a newcomer over %s: %v", carrier, err)
		return
	}
	defer forward.Kill()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", forward.Addr)
	if err != nil {
		t.Errorf("a newcomer over %s: %v", carrier, err)
		return
	}
	if err := finish(conn.(*net.TCPConn)); err != nil {
		t.Errorf("a newcomer over %s: %v\n%s", carrier, err, forward.Tail())
	}
}
