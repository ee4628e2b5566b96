//go:build linux

package stores

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// freeAddr returns a loopback address that is nobody else's: connections that other programs open come from 127.0.0.1,
// so none of them takes the port before the server does.
func freeAddr(t *testing.T) string {
	t.Helper()
	ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), 1+rand.IntN(250), 1+rand.IntN(250))
	ln, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// daemon is a server and what it forked.
type daemon struct {
	*proc.Process
	addr string
}

// startDaemon starts a server and waits until it accepts connections.
func startDaemon(ctx context.Context, t *testing.T, addr string, spec proc.Spec) *daemon {
	t.Helper()
	p, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Process: p, addr: addr}
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("output of %s ends:\n%s", p.Name(), p.Tail())
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = conn.Close()
			return d
		}
		select {
		case <-p.Done():
			t.Fatal(p.Failure("ended before it listened"))
		case <-ctx.Done():
			t.Fatal(p.Failure("does not listen: " + err.Error()))
		case <-tick.C:
		}
	}
}

// kill kills the server and what it forked, and waits for the server.
func (d *daemon) kill() {
	for _, p := range family(int32(d.PID())) {
		_ = p.Kill()
	}
	d.Kill()
}

// family returns a process and its children's children, as far as they live.
func family(pid int32) []*process.Process {
	p, err := process.NewProcess(pid)
	if err != nil {
		return nil
	}
	all := []*process.Process{p}
	children, err := p.Children()
	if err != nil {
		return all
	}
	for _, c := range children {
		all = append(all, family(c.Pid)...)
	}
	return all
}
