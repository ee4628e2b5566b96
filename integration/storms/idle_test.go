//go:build linux

package storms

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// idleEnv tells a process of the test binary to be many idle connections; its value is an idleOrder.
const idleEnv = "EBBGATE_STORM_IDLE"

// idleOrder says what the process does.
type idleOrder struct {
	Addr  string
	Count int
	Drip  []byte // half of the connections say this, a byte a second
}

// idleState is what it prints: `ready` when all are open, and again when all were freed.
type idleState struct {
	Open, Failed, Freed int
	Last                string // error of opening
}

// idleMain is the process.
func idleMain() {
	text := os.Getenv(idleEnv)
	if text == "" {
		return
	}
	var order idleOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	conns, state := openMany(order)
	report(state)
	over := make(chan struct{})
	go drip(conns, order.Drip, over)
	var freed atomic.Int64
	var readers sync.WaitGroup
	for _, conn := range conns {
		readers.Go(func() {
			buf := make([]byte, 512)
			_ = conn.SetReadDeadline(time.Now().Add(3 * time.Minute))
			for {
				_, err := conn.Read(buf)
				if err != nil {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						freed.Add(1)
					}
					_ = conn.Close()
					return
				}
			}
		})
	}
	readers.Wait()
	close(over)
	state.Freed = int(freed.Load())
	report(state)
	os.Exit(0)
}

func report(s idleState) {
	line, _ := json.Marshal(s)
	fmt.Printf("ready %s\n", line)
}

// openMany opens the connections, from ten addresses as if they were of ten hosts.
func openMany(order idleOrder) (conns []net.Conn, state idleState) {
	var mu sync.Mutex
	var dialers sync.WaitGroup
	next := make(chan int)
	for range 32 {
		dialers.Go(func() {
			for i := range next {
				from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%10))}
				d := net.Dialer{LocalAddr: from, Timeout: time.Minute, Control: addressNoPort}
				conn, err := d.Dial("tcp", order.Addr)
				mu.Lock()
				if err != nil {
					state.Failed++
					state.Last = err.Error()
				} else {
					conns = append(conns, conn)
				}
				mu.Unlock()
			}
		})
	}
	for i := range order.Count {
		next <- i
	}
	close(next)
	dialers.Wait()
	state.Open = len(conns)
	return conns, state
}

// addressNoPort has the system choose the port when it knows the destination, so that ports do not run out.
func addressNoPort(_, _ string, c syscall.RawConn) error {
	const ipBindAddressNoPort = 24
	return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1) })
}

// drip says a byte a second on every other connection.
func drip(conns []net.Conn, text []byte, over <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for _, c := range text {
		for i := 0; i < len(conns); i += 2 {
			_, _ = conns[i].Write([]byte{c})
		}
		select {
		case <-tick.C:
		case <-over:
			return
		}
	}
}

// clientHello is a ClientHello for a protocol.
func clientHello(t *testing.T, protocol string) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}, ServerName: "relay"}).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, err := far.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_ = near.Close()
	_ = far.Close()
	return buf[:n]
}

// idleCount is how many connections each port gets.
const idleCount = 10000

// affordable is how many of them the limit of descriptors allows here.
func affordable(t *testing.T) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := min(scaled(idleCount), max(int(limit.Max)-500, 100))
	if n < scaled(idleCount) {
		t.Logf("************ ONLY %d CONNECTIONS INSTEAD OF %d: the limit of descriptors is %d ************", n, idleCount, limit.Max)
	}
	return n
}

// TestIdle has 10,000 connections at each port that say nothing or a byte a second. All are freed and counted, and
// whoever means it gets through.
func TestIdle(t *testing.T) {
	for _, port := range []struct {
		name   string
		addr   func(*path) string
		drip   func(t *testing.T) []byte
		metric string
	}{
		{"tls", func(p *path) string { return p.relay.TLS }, func(t *testing.T) []byte { return clientHello(t, "ebbgate/1") }, `ebbgate_relay_connections_total{kind="silence"}`},
		{"http", func(p *path) string { return p.relay.HTTP }, text("GET /tunnel HTTP/1.1\r\nHost: relay\r\n"), `ebbgate_relay_connections_total{kind="silence"}`},
		{"connect", func(p *path) string { return p.relay.Connect }, text("CONNECT echo.corp:0 HTTP/1.1\r\nHost: x\r\n"), `ebbgate_ingress_requests_total{reason="silence"}`},
		{"socks5", func(p *path) string { return p.relay.Socks5 }, text("\x05\xff" + string(make([]byte, 255))), `ebbgate_ingress_requests_total{reason="silence"}`},
	} {
		t.Run(port.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			p := newPath(ctx, t, "tls", limits{})
			m := newMeter(ctx, t, p)
			n := affordable(t)
			order, err := json.Marshal(idleOrder{Addr: port.addr(p), Count: n, Drip: port.drip(t)})
			if err != nil {
				t.Fatal(err)
			}
			states := make(chan idleState, 2)
			many, err := proc.Start(proc.Spec{Name: "the idle ones", Path: os.Args[0], Env: []string{idleEnv + "=" + string(order)}, Lines: func(line string) {
				var s idleState
				if json.Unmarshal([]byte(line[len("ready "):]), &s) == nil {
					states <- s
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			watch(t, many, false)
			state := next(ctx, t, many, states)
			if state.Open != n {
				t.Errorf("%+v, want %d open", state, n)
			}
			peak := m.now(ctx, t)
			t.Logf("with %d connections: %+v", n, peak)
			p.talk(ctx, t)
			p.dial(ctx, t)
			p.newcomer(ctx, t, "tls")
			if freed := next(ctx, t, many, states).Freed; freed != n {
				t.Errorf("%d of %d connections were freed", freed, n)
			}
			m.grew(ctx, t, port.metric, n)
			p.talk(ctx, t)
			m.settle(ctx, t)
			if took := peak.memory - m.base.memory; took > float64(n*24<<10+64<<20) {
				t.Errorf("%d connections that say nothing take %.0f bytes", n, took)
			}
		})
	}
}

func text(s string) func(*testing.T) []byte { return func(*testing.T) []byte { return []byte(s) } }

// next waits for what the idle ones say.
func next(ctx context.Context, t *testing.T, p *proc.Process, states <-chan idleState) idleState {
	t.Helper()
	select {
	case s := <-states:
		return s
	case <-p.Done():
		select {
		case s := <-states:
			return s
		default:
		}
		t.Fatal(p.Failure("ended"))
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	return idleState{}
}
