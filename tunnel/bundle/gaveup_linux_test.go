package bundle

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// lateReader reads only after a write has taken the error of a reset.
type lateReader struct {
	*net.TCPConn
	reset <-chan struct{}
}

func (r *lateReader) Read(p []byte) (int, error) {
	<-r.reset
	for {
		if _, err := r.TCPConn.Write([]byte("x")); err != nil {
			break // the kernel has told, and will not tell again
		}
	}
	return r.TCPConn.Read(p)
}

// TestResetThatTheWriterSaw has a store that resets while the node writes to it.
func TestResetThatTheWriterSaw(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	carrying, reset := make(chan struct{}), make(chan struct{})
	seen := make(chan error, 1)
	open := func(ctx context.Context, peer string, req Request) (Socket, error) {
		sock, err := dialArmed(l.Addr().String())(ctx, peer, req)
		if err != nil {
			return nil, err
		}
		return &lateReader{sock.(*net.TCPConn), reset}, nil
	}
	go func() {
		c, err := l.Accept()
		<-carrying
		if err == nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			err = c.Close()
		}
		seen <- err
		close(reset)
	}()
	ingress := tcpPair(t, 1, open)
	s, err := ingress.Open(t.Context(), Request{Grant: "g"})
	if err != nil {
		t.Fatal(err)
	}
	job, inside := tcpSockets(t)
	report := make(chan Report, 1)
	go func() { report <- s.Carry(inside, nil) }()
	close(carrying)
	if _, err := io.ReadAll(job); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the job saw %v, want a reset", err)
	}
	_ = job.Close()
	if r := <-report; r.Reason != CodeStoreReset {
		t.Errorf("reason %v", r.Reason)
	}
	if err := <-seen; err != nil {
		t.Error(err)
	}
}

// TestGaveUp tells a FIN from a reset that a write has seen.
func TestGaveUp(t *testing.T) {
	for _, reset := range []bool{false, true} {
		outside, inside := tcpSockets(t)
		if reset {
			_ = outside.SetLinger(0)
		}
		_ = outside.Close()
		for reset {
			if _, err := inside.Write([]byte("x")); err != nil {
				break
			}
		}
		if _, err := inside.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("reset %t: read gives %v", reset, err)
		}
		if got := gaveUp(inside); got != reset {
			t.Errorf("reset %t: gaveUp is %t", reset, got)
		}
		_ = inside.Close()
	}
}
