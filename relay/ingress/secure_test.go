package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// recordingConn remembers the deadlines for writes.
type recordingConn struct {
	*net.TCPConn
	mu        sync.Mutex
	deadlines []time.Time
}

func (c *recordingConn) NetConn() net.Conn { return c.TCPConn }

func (c *recordingConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlines = append(c.deadlines, t)
	return c.TCPConn.SetWriteDeadline(t)
}

// securePair is a job's connection over TLS, at the ingress and at the job.
func securePair(t testing.TB) (in *secureSocket, below *recordingConn, job *tls.Conn, raw *net.TCPConn) {
	t.Helper()
	ca, err := certs.NewAuthority("test", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := ca.IssuePublic([]string{"127.0.0.1"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	below = &recordingConn{TCPConn: accepted.(*net.TCPConn)}
	in = newSecureSocket(below, func(c net.Conn) *tls.Conn {
		return tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*certificate}})
	})
	raw = conn.(*net.TCPConn)
	job = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- in.HandshakeContext(context.Background()) }()
	if err := errors.Join(job.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return in, below, job, raw
}

func TestSecureEnds(t *testing.T) {
	t.Run("close_notify is an end, and the other way goes on", func(t *testing.T) {
		in, _, job, _ := securePair(t)
		_, _ = io.WriteString(job, "up")
		_ = job.CloseWrite()
		if got, err := io.ReadAll(in); err != nil || string(got) != "up" {
			t.Errorf("the ingress reads %q %v", got, err)
		}
		_, _ = io.WriteString(in, "down")
		if err := in.CloseWrite(); err != nil {
			t.Error(err)
		}
		_ = in.SetLinger(-1)
		_ = in.Close()
		if got, err := io.ReadAll(job); err != nil || string(got) != "down" {
			t.Errorf("the job reads %q %v", got, err)
		}
	})
	t.Run("a FIN alone is none", func(t *testing.T) {
		in, _, job, raw := securePair(t)
		_, _ = io.WriteString(job, "up")
		_ = raw.CloseWrite()
		if got, err := io.ReadAll(in); !errors.Is(err, errBareEnd) || string(got) != "up" {
			t.Errorf("the ingress reads %q %v", got, err)
		}
	})
	t.Run("with linger 0, Close is a reset and says nothing", func(t *testing.T) {
		in, _, _, raw := securePair(t)
		_ = in.SetLinger(0)
		_ = in.Close()
		// what is in front of the reset, a ticket of TLS 1.3, means nothing
		if _, err := io.Copy(io.Discard, raw); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the job reads %v, want a reset", err)
		}
	})
	t.Run("the last alert has all time", func(t *testing.T) {
		in, below, _, _ := securePair(t)
		if err := in.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		below.mu.Lock()
		defer below.mu.Unlock()
		for _, d := range below.deadlines {
			if !d.IsZero() {
				t.Errorf("a deadline %v from now", time.Until(d))
			}
		}
	})
}

func BenchmarkSecureWrite(b *testing.B) {
	in, _, job, _ := securePair(b)
	go func() { _, _ = io.Copy(io.Discard, job) }()
	chunk := make([]byte, 256<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := in.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}
