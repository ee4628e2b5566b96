package bundle

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// tcpPair is an ingress and a node on this machine, with TCP lanes.
func tcpPair(tb testing.TB, lanes int, open OpenFunc) *Bundle {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	ingress := NewIngress(Config{Incarnation: 1})
	node := NewNode(Config{Incarnation: 2}, open)
	var serving []chan struct{}
	for i := range lanes {
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			tb.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			tb.Fatal(err)
		}
		exporter := make([]byte, 32)
		_, _ = rand.Read(exporter)
		done := make(chan struct{})
		serving = append(serving, done)
		go func() {
			defer close(done)
			_ = node.Serve(context.Background(), b, LaneInfo{Carrier: "tcp", Local: nodeID, Peer: relayID, Exporter: exporter, Express: i == 0})
		}()
		if err := ingress.Join(context.Background(), a, LaneInfo{Carrier: "tcp", Local: relayID, Peer: nodeID, Exporter: exporter, Express: i == 0}); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(func() {
		ingress.Close(CodeIngressStopped)
		node.Close(CodeNodeStopped)
		for _, done := range serving {
			<-done
		}
	})
	return ingress
}

// dialArmed dials a TCP address with linger 0 set as early as a test needs it.
func dialArmed(address string) OpenFunc {
	return func(ctx context.Context, _ string, _ Request) (Socket, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		tcp := c.(*net.TCPConn)
		return tcp, tcp.SetLinger(0)
	}
}

// tcpSockets is a connected pair: the job's own end and the ingress' end.
func tcpSockets(tb testing.TB) (outside, inside *net.TCPConn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	inside = b.(*net.TCPConn)
	_ = inside.SetLinger(0)
	return a.(*net.TCPConn), inside
}

// TestRealSockets runs every kind of end over kernel sockets.
func TestRealSockets(t *testing.T) {
	body := content(9, 3<<20)
	type end func(store *net.TCPConn)
	tests := []struct {
		name  string
		store end
		err   error
		bytes int
		code  Code
	}{
		{"store ends well", func(c *net.TCPConn) { c.Write(body); c.Close() }, nil, len(body), CodeOK},
		{"store resets in mid-object", func(c *net.TCPConn) { c.Write(body[:1<<20]); c.SetLinger(0); c.Close() }, syscall.ECONNRESET, -1, CodeStoreReset},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			dialled := make(chan struct{})
			go func() {
				if c, err := l.Accept(); err == nil {
					<-dialled // a reset before that is a dial that fails
					test.store(c.(*net.TCPConn))
				}
			}()
			ingress := tcpPair(t, 2, dialArmed(l.Addr().String()))
			s, err := ingress.Open(t.Context(), Request{Grant: "g"})
			close(dialled)
			if err != nil {
				t.Fatal(err)
			}
			job, inside := tcpSockets(t)
			report := make(chan Report, 1)
			go func() { report <- s.Carry(inside, nil) }()
			got, err := io.ReadAll(job)
			if !errors.Is(err, test.err) {
				t.Errorf("the job saw %v, want %v", err, test.err)
			}
			if test.bytes >= 0 && !bytes.Equal(got, body[:test.bytes]) {
				t.Errorf("%d bytes differ from what was sent", len(got))
			}
			job.Close()
			if r := <-report; r.Reason != test.code {
				t.Errorf("reason %v, want %v", r.Reason, test.code)
			}
		})
	}
}

func BenchmarkDownload(b *testing.B) {
	chunk := content(1, 1<<20)
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				for {
					if _, err := c.Write(chunk); err != nil {
						c.Close()
						return
					}
				}
			}()
		}
	}()
	ingress := tcpPair(b, 2, dialArmed(l.Addr().String()))
	s, err := ingress.Open(context.Background(), Request{Grant: "g"})
	if err != nil {
		b.Fatal(err)
	}
	job, inside := tcpSockets(b)
	done := make(chan struct{})
	go func() { s.Carry(inside, nil); close(done) }()
	b.SetBytes(int64(len(chunk)))
	b.ResetTimer()
	buf := make([]byte, len(chunk))
	for range b.N {
		if _, err := io.ReadFull(job, buf); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	job.Close()
	<-done
}

func BenchmarkRoundTrip(b *testing.B) {
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	ingress := tcpPair(b, 2, dialArmed(l.Addr().String()))
	s, err := ingress.Open(context.Background(), Request{Grant: "g"})
	if err != nil {
		b.Fatal(err)
	}
	job, inside := tcpSockets(b)
	done := make(chan struct{})
	go func() { s.Carry(inside, nil); close(done) }()
	p := make([]byte, 1)
	for b.Loop() {
		job.Write(p)
		if _, err := io.ReadFull(job, p); err != nil {
			b.Fatal(err)
		}
	}
	job.CloseWrite()
	io.ReadAll(job)
	job.Close()
	<-done
}

func BenchmarkOpen(b *testing.B) {
	ingress := tcpPair(b, 2, func(context.Context, string, Request) (Socket, error) {
		return nil, &RefusedError{Reason: CodeStoreRefused}
	})
	for b.Loop() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, _ = ingress.Open(ctx, Request{Grant: "g"})
		cancel()
	}
}

// TestResetOfAStalledJob resets a job's socket while the store takes nothing, so
// that nobody reads the job's socket: the store must see a reset all the same.
func TestResetOfAStalledJob(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells a reset without a read")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ingress := tcpPair(t, 2, dialArmed(l.Addr().String()))
	s, err := ingress.Open(t.Context(), Request{Grant: "g"})
	if err != nil {
		t.Fatal(err)
	}
	store, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	job, inside := tcpSockets(t)
	report := make(chan Report, 1)
	go func() { report <- s.Carry(inside, nil) }()
	_ = job.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := job.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the job wrote until %v, want it to stall", err)
	}
	_ = job.SetLinger(0)
	_ = job.Close()
	if r := <-report; r.Reason != CodeJobReset {
		t.Errorf("reason %v", r.Reason)
	}
	if _, err := io.Copy(io.Discard, store); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the store saw %v, want a reset", err)
	}
}
