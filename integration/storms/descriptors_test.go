//go:build linux

package storms

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// limited is the program with so many file descriptors.
func limited(t *testing.T, descriptors int) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ebbgate")
	script := fmt.Sprintf("#!/bin/sh\nulimit -n %d && exec '%s' \"$@\"\n", descriptors, program)
	if err := os.WriteFile(name, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestRelayDescriptors has a relay of 256 descriptors that hundreds of connections want. It does not spin, streams go
// on, and it accepts again as soon as it can.
func TestRelayDescriptors(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "tls", limits{relay: limited(t, 256)})
	m := newMeter(ctx, t, p)
	ports := []string{p.relay.TLS, p.relay.HTTP, p.relay.Connect, p.relay.Socks5}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	// Strangers are freed after ten seconds: new ones keep the relay full.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	const failed = `ebbgate_relay_connections_total{kind="accept-failed"}`
	for m.counts(ctx, t)[failed] < 3 {
		for _, addr := range ports {
			conn, err := net.DialTimeout("tcp", addr, patience)
			if err == nil { // the system accepts more than the relay does
				conns = append(conns, conn)
			}
		}
		<-tick.C
		if len(conns)%100 == 0 {
			p.talk(ctx, t)
		}
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("%d connections do not fill the relay", len(conns))
		}
	}
	p.talk(ctx, t)
	began = time.Now()
	spent := seconds(t, p.relay.PID())
	watchFull(ctx, t, p, 5*time.Second)
	if used := seconds(t, p.relay.PID()) - spent; used > time.Since(began).Seconds()/2 {
		t.Errorf("the relay spun: %.1f s of processor time in %v", used, time.Since(began))
	}
	for _, c := range conns {
		_ = c.Close()
	}
	conns = nil
	p.dial(ctx, t)
	p.newcomer(ctx, t, "tls")
	p.talk(ctx, t)
	m.settle(ctx, t)
}

// watchFull uses the old stream for a while.
func watchFull(ctx context.Context, t *testing.T, p *path, long time.Duration) {
	t.Helper()
	over := time.NewTimer(long)
	defer over.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-over.C:
			return
		case <-tick.C:
			p.talk(ctx, t)
		}
	}
}

// seconds is how much processor time a process has used.
func seconds(t *testing.T, pid int) float64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	total := 0.0
	for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += n / 100
	}
	return total
}

// TestConnectorDescriptors has a connector of 256 descriptors that is asked for more streams than it can dial. It
// refuses those by name, the others go on, and it dials again when there is room.
func TestConnectorDescriptors(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "tls", limits{connector: limited(t, 256)})
	m := newMeter(ctx, t, p)
	var open []*net.TCPConn
	refused := 0
	for range 400 {
		conn, err := p.ingress.Dial(ctx, host)
		if err != nil {
			if !strings.Contains(err.Error(), "node-busy") {
				t.Errorf("refused with %v", err)
			}
			refused++
			continue
		}
		open = append(open, conn)
	}
	t.Logf("%d streams are open, %d were refused", len(open), refused)
	if refused == 0 || len(open) < 150 {
		t.Errorf("%d streams are open, %d were refused", len(open), refused)
	}
	p.talk(ctx, t)
	for _, conn := range open {
		if err := finish(conn); err != nil {
			t.Errorf("a stream that was open: %v", err)
		}
	}
	p.dial(ctx, t)
	p.talk(ctx, t)
	m.settle(ctx, t)
}
