package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// poolOpener is a Client without a session.
type poolOpener struct{ p *pool }

func (o poolOpener) Open(ctx context.Context, t Target) (*Stream, error) {
	return o.p.open(ctx, t)
}
func (o poolOpener) Check(ctx context.Context, t Target) error { return o.p.check(ctx, t) }

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// testForward is a Forwarder that runs.
type testForward struct {
	t    *testing.T
	addr string
	log  *syncBuffer
	stop func() (Summary, error) // once
}

func startForward(t *testing.T, b broker) *testForward {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tf := &testForward{t: t, addr: ln.Addr().String(), log: &syncBuffer{}}
	ready := make(chan ForwarderReady, 1)
	f := &Forwarder{
		Target: testTarget, DialTimeout: 5 * time.Second,
		Ready:  func(r ForwarderReady) { ready <- r },
		Logger: slog.New(slog.NewTextHandler(tf.log, nil)),
		opener: poolOpener{testPool(t, b)},
	}
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		sum Summary
		err error
	}
	done := make(chan result, 1)
	go func() {
		sum, err := f.Run(ctx, ln)
		done <- result{sum, err}
	}()
	tf.stop = sync.OnceValues(func() (Summary, error) {
		cancel()
		select {
		case r := <-done:
			return r.sum, r.err
		case <-time.After(10 * time.Second):
			t.Error("the forwarder does not end")
			return Summary{}, nil
		}
	})
	t.Cleanup(func() { tf.stop() })
	select {
	case r := <-ready:
		if r.Listen != tf.addr || r.Target != "corp/erp-sql" {
			t.Errorf("ready %+v", r)
		}
	case r := <-done:
		done <- r
		cancel()
	}
	return tf
}

func (tf *testForward) dial() *net.TCPConn {
	tf.t.Helper()
	c, err := net.Dial("tcp", tf.addr)
	if err != nil {
		tf.t.Fatal(err)
	}
	tf.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func TestForwardCarriesManyConnections(t *testing.T) {
	tf := startForward(t, newTestBroker(t, echoStore(t)))
	const jobs, size = 20, 300_000
	var running sync.WaitGroup
	for range jobs {
		c := tf.dial()
		running.Go(func() {
			body := make([]byte, size)
			rand.Read(body)
			var writer sync.WaitGroup
			writer.Go(func() {
				c.Write(body)
				c.CloseWrite()
			})
			got, err := io.ReadAll(c)
			writer.Wait()
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes of %d came back, %v", len(got), size, err)
			}
		})
	}
	running.Wait()
	sum, err := tf.stop()
	if err != nil || sum.Streams != jobs || sum.Failed != 0 || sum.BytesRead != jobs*size || sum.BytesWritten != jobs*size || len(sum.Last) != jobs {
		t.Errorf("%+v, %v", sum, err)
	}
	for _, s := range sum.Last {
		if s.Reason != "ok" || s.ReadCRC32C != s.WriteCRC32C || s.BytesRead != size || len(s.UUID) != 36 {
			t.Errorf("stream %+v", s)
		}
	}
}

// What a job reads when its copy did not end well is a reset, wherever it broke.
func TestForwardNeverEndsCleanlyWithoutTheStore(t *testing.T) {
	const sent = 100_000
	some := func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1)) // the job is there
		c.Write(make([]byte, sent))
	}
	for _, tc := range []struct {
		name    string
		serve   func(c *net.TCPConn)
		disrupt func(tf *testForward, b *testBroker)
		want    string // in the log
	}{
		{"store resets", func(c *net.TCPConn) {
			some(c)
			c.SetLinger(0)
		}, nil, "store-reset"},
		{"lanes are cut", func(c *net.TCPConn) {
			some(c)
			io.Copy(io.Discard, c)
		}, func(tf *testForward, b *testBroker) {
			// until both are gone: one may come back between the loss of the one and
			// of the other
			over := make(chan struct{})
			tf.t.Cleanup(func() { close(over) })
			go func() {
				for {
					b.nodes["node-1"].cut()
					select {
					case <-over:
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			}()
		}, "lanes-lost end-restarted"}, // the second where a lane came back too late
		{"node stops", func(c *net.TCPConn) {
			some(c)
			io.Copy(io.Discard, c)
		}, func(_ *testForward, b *testBroker) { b.nodes["node-1"].Close(bundle.CodeNodeStopped) }, "node-stopped"},
		{"the forwarder stops", func(c *net.TCPConn) {
			some(c)
			io.Copy(io.Discard, c)
		}, func(tf *testForward, _ *testBroker) { go tf.stop() }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newTestBroker(t, tcpStore(t, tc.serve))
			tf := startForward(t, b)
			c := tf.dial()
			c.Write([]byte("x"))
			if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			if tc.disrupt != nil {
				tc.disrupt(tf, b)
			}
			n, err := io.Copy(io.Discard, c)
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after %d bytes the job read %v", n+1000, err)
			}
			sum, err := tf.stop()
			if err != nil || sum.Streams != 1 || sum.Failed != 1 {
				t.Errorf("%+v, %v", sum, err)
			}
			named := func(reason string) bool { return strings.Contains(tf.log.String(), "reason="+reason) }
			if tc.want != "" && !slices.ContainsFunc(strings.Fields(tc.want), named) {
				t.Errorf("logged %q, want reason %s", tf.log.String(), tc.want)
			}
		})
	}
}

func TestForwardResetsTheStoreWithTheJob(t *testing.T) {
	seen := make(chan error, 1)
	tf := startForward(t, newTestBroker(t, tcpStore(t, func(c *net.TCPConn) {
		c.Write([]byte("x"))
		_, err := io.Copy(io.Discard, c)
		seen <- err
	})))
	c := tf.dial()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.SetLinger(0)
	c.Close()
	if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the store read %v", err)
	}
}

func TestForwardHalfClose(t *testing.T) {
	t.Run("store first", func(t *testing.T) {
		got := make(chan string, 1)
		tf := startForward(t, newTestBroker(t, tcpStore(t, func(c *net.TCPConn) {
			c.Write([]byte("from the store"))
			c.CloseWrite()
			b, err := io.ReadAll(c)
			got <- fmt.Sprint(string(b), err)
		})))
		c := tf.dial()
		if b, err := io.ReadAll(c); string(b) != "from the store" || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
		c.Write([]byte("from the job"))
		c.CloseWrite()
		if b := <-got; b != "from the job<nil>" {
			t.Errorf("the store read %q", b)
		}
	})
}

func TestForwardResetsWhatItCannotOpen(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	b.nodes["node-1"].answer = []error{&bundle.RefusedError{Reason: bundle.CodeStoreRefused, Text: "10.0.0.5:1433 refused the connection"}}
	tf := startForward(t, b)
	c, err := net.Dial("tcp", tf.addr)
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) { // be it while it connects
		t.Errorf("a refused job: %v", err)
	}
	sum, err := tf.stop()
	if err != nil || sum.Streams != 0 || sum.Failed != 1 {
		t.Errorf("%+v, %v", sum, err)
	}
	for _, want := range []string{"hop=store", "code=store-refused", "10.0.0.5:1433", "advice="} {
		if !strings.Contains(tf.log.String(), want) {
			t.Errorf("the log %q does not say %s", tf.log.String(), want)
		}
	}
}

func TestForwardRefusesAtTheStart(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	b.refuse = []error{codedError("job-not-allowed")}
	tf := startForward(t, b)
	if _, err := tf.stop(); codeOf(err) != "job-not-allowed" {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("tcp", tf.addr); err == nil {
		t.Error("the port is still open")
	}
}

func TestForwardStartsWithoutANode(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	b.refuse = []error{codedError("no-node-online"), codedError("no-node-online")}
	tf := startForward(t, b)
	c := tf.dial()
	c.Write([]byte("late"))
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "late" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestListenErrors(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := Listen(t.Context(), ln.Addr().String()); codeOf(err) != "listen-failed" {
		t.Errorf("a port in use: %v", err)
	}
}

func TestParseTarget(t *testing.T) {
	for s, want := range map[string]Target{
		"corp/erp-sql": {Gateway: "corp", Store: "erp-sql"}, "a/b": {Gateway: "a", Store: "b"}, "corp": {}, "corp/": {}, "/x": {}, "a/b/c": {},
		"Corp/x": {}, "corp/erp.sql": {}, "corp/" + strings.Repeat("x", 64): {}, "": {},
	} {
		got, err := ParseTarget(s)
		if got != want || (err == nil) != (want != Target{}) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func TestSummaryKeepsTheLast(t *testing.T) {
	ta := NewTally("nightly", nil)
	for i := range maxStreamsShown + 5 {
		ta.ended(reportOf(testTarget, bundle.Report{Sent: int64(i), Start: time.Unix(0, 0), End: time.Unix(2, 0)}))
	}
	s := ta.Summary()
	if s.Streams != maxStreamsShown+5 || len(s.Last) != maxStreamsShown || s.Run != "nightly" || s.Last[0].BytesWritten != 5 || s.Last[0].Seconds != 2 {
		t.Errorf("%d streams, %d kept, the oldest %+v", s.Streams, len(s.Last), s.Last[0])
	}
}

// A job that sent everything and ended before it was even accepted loses
// nothing to a drain; one that comes later is not served.
func TestForwardDrains(t *testing.T) {
	got := make(chan string, 40)
	b := newTestBroker(t, tcpStore(t, func(c *net.TCPConn) {
		body, err := io.ReadAll(c)
		got <- fmt.Sprint(string(body), err)
	}))
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const jobs = 30
	for i := range jobs {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%02d", i)
		c.Close()
	}
	drain := make(chan struct{})
	close(drain)
	f := &Forwarder{Target: testTarget, Drain: drain, opener: poolOpener{testPool(t, b)}}
	sum, err := f.Run(t.Context(), ln)
	if err != nil || sum.Streams != jobs || sum.Failed != 0 || len(sum.Stores) != 1 || sum.Stores[0].Streams != jobs {
		t.Errorf("%+v, %v", sum, err)
	}
	seen := make(map[string]bool)
	for range sum.Streams {
		seen[<-got] = true
	}
	for i := range jobs {
		if !seen[fmt.Sprintf("%02d<nil>", i)] {
			t.Errorf("job %d did not reach the store: %v", i, seen)
		}
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}
