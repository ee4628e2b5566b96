package client

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/ebbgate/ebbgate/certs"
)

// testDialer is a Dialer at a relay of the test.
func testDialer(t *testing.T, r *testRelay) *Dialer {
	t.Helper()
	d := &Dialer{Relay: r.addr, Token: r.token.Encode(), Carriers: []string{"tls"}, Environment: noGrace}
	t.Cleanup(func() { d.Close() })
	return d
}

// noGrace is an environment in which streams end with their lanes.
func noGrace(name string) string {
	if name == "EBBGATE_RESUME_GRACE" {
		return "0"
	}
	return ""
}

func (d *Dialer) mustOpen(t *testing.T, address string) *Conn {
	t.Helper()
	c, err := d.Open(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Reset)
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// acceptingStore hands out the connections that it gets.
func acceptingStore(t *testing.T) (addr string, conns <-chan *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan *net.TCPConn)
	done := make(chan struct{})
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			select {
			case accepted <- c:
			case <-done:
				c.Close()
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		ln.Close()
		accepting.Wait()
	})
	return ln.Addr().String(), accepted
}

func TestConnIsANetConn(t *testing.T) {
	store, conns := acceptingStore(t)
	d := testDialer(t, startRelay(t, store))
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c, err := d.DialContext(t.Context(), "tcp", "erp-sql.corp:1433")
		if err != nil {
			return nil, nil, nil, err
		}
		far := <-conns
		return c, far, func() {
			c.Close()
			far.Close()
		}, nil
	})
}

func TestConnCopiesBothWays(t *testing.T) {
	d := testDialer(t, startRelay(t, echoStore(t)))
	body := make([]byte, 5<<20)
	rand.Read(body)
	c := d.mustOpen(t, "corp/erp-sql")
	var writer sync.WaitGroup
	writer.Go(func() {
		if n, err := c.Write(body); n != len(body) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("a write after CloseWrite: %v", err)
		}
	})
	got, err := io.ReadAll(c)
	writer.Wait()
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	<-c.Done()
	r := c.Report()
	sum := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
	if want := uuidText([16]byte(c.stream.UUID())); r.UUID != want || len(want) != 36 {
		t.Errorf("UUID %q, want %q", r.UUID, want)
	}
	if r.Reason != ReasonOK || r.Err() != nil || r.BytesRead != int64(len(body)) || r.BytesWritten != int64(len(body)) || r.Target != "corp/erp-sql" ||
		r.ReadCRC32C != hex32(sum) || r.WriteCRC32C != hex32(sum) || r.Seconds <= 0 {
		t.Errorf("%+v", r)
	}
	// Another read says the same.
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Errorf("a deadline after the end: %v", err)
	}
}

// A connection outlives the sessions that it travels on, and loses no byte.
func TestConnOutlivesItsSessions(t *testing.T) {
	r := startRelay(t, echoStore(t))
	d := testDialer(t, r)
	d.ResumeGrace = time.Minute
	c := d.mustOpen(t, "corp/erp-sql")
	sent, got := make([]byte, 200_000), make([]byte, 200_000)
	for range 4 {
		rand.Read(sent)
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		r.drop("bulk")
		r.drop("client")
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%v; the same bytes: %v", err, bytes.Equal(got, sent))
		}
	}
	c.CloseWrite()
	if _, err := c.Read(got); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	<-c.Done()
	if r := c.Report(); r.Reason != ReasonOK || r.BytesRead != 4*int64(len(sent)) || r.ReadCRC32C != r.WriteCRC32C {
		t.Errorf("%+v", r)
	}
}

func hex32(n uint32) string { return fmt.Sprintf("%08x", n) }

func TestConnReportsWhileItIsOpen(t *testing.T) {
	d := testDialer(t, startRelay(t, echoStore(t)))
	c := d.mustOpen(t, "corp/erp-sql")
	c.Write([]byte("hello"))
	io.ReadFull(c, make([]byte, 5))
	if r := c.Report(); r.Reason != ReasonOpen || r.Err() != nil || r.BytesRead != 5 || r.BytesWritten != 5 {
		t.Errorf("%+v", r)
	}
	if c.RemoteAddr().Network() != "tcp" || c.RemoteAddr().String() != "corp/erp-sql" || c.LocalAddr().String() == "" {
		t.Errorf("from %v to %v", c.LocalAddr(), c.RemoteAddr())
	}
}

// An end that the store did not send is no end of file.
func TestConnNeverEndsCleanlyWithoutTheStore(t *testing.T) {
	for _, tc := range []struct {
		name      string
		end       func(r *testRelay, store *net.TCPConn, c *Conn)
		code, hop string
	}{
		{"store resets", func(_ *testRelay, store *net.TCPConn, _ *Conn) {
			store.SetLinger(0)
			store.Close()
		}, "store-reset", "store"},
		{"sessions lost", func(r *testRelay, _ *net.TCPConn, c *Conn) {
			until(r.t, "the stream is over", func() bool { // a session may just be coming up
				r.drop("bulk")
				r.drop("client")
				return c.over()
			})
		}, "lanes-lost", "relay"},
		{"node stops", func(r *testRelay, _ *net.TCPConn, _ *Conn) { r.node.Close(32) }, "node-stopped", "node"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store, conns := acceptingStore(t)
			r := startRelay(t, store)
			c := testDialer(t, r).mustOpen(t, "corp/erp-sql")
			far := <-conns
			defer far.Close()
			far.Write(make([]byte, 1000))
			if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			reads := make(chan error)
			go func() {
				_, err := io.Copy(io.Discard, c)
				reads <- err
			}()
			tc.end(r, far, c)
			err := <-reads
			var e *Error
			if !errors.As(err, &e) || e.Code() != tc.code || e.Hop() != tc.hop || e.Advice() == "" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v (%#v)", err, e)
			}
			if _, err := c.Write([]byte("x")); codeOf(err) != tc.code {
				t.Errorf("write: %v", err)
			}
			if err := c.CloseWrite(); codeOf(err) != tc.code {
				t.Errorf("CloseWrite: %v", err)
			}
			if r := c.Report(); r.Reason != tc.code || codeOf(r.Err()) != tc.code || r.BytesRead != 1000 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// What the store reads at a Conn's end.
func TestConnCloses(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(c *Conn, store *net.TCPConn)
		sees string // the store: end or reset; empty: its writer may take the error before its reader
		want string // the reason
	}{
		{"closed", func(c *Conn, _ *net.TCPConn) { c.Close() }, "end", "ok"},
		{"closed twice", func(c *Conn, _ *net.TCPConn) { c.Close(); c.Close() }, "end", "ok"},
		{"half, then closed", func(c *Conn, _ *net.TCPConn) { c.CloseWrite(); c.Close() }, "end", "ok"},
		{"closed with a last word unread", func(c *Conn, store *net.TCPConn) {
			store.Write(make([]byte, 1000))
			c.Close()
		}, "end", "ok"},
		{"closed in the middle of a copy", func(c *Conn, store *net.TCPConn) {
			go store.Write(make([]byte, 16<<20))
			io.ReadFull(c, make([]byte, 10_000))
			c.Close()
		}, "", "job-reset"},
		{"reset", func(c *Conn, _ *net.TCPConn) { c.Reset() }, "reset", "job-reset"},
		{"closed after half a write", func(c *Conn, _ *net.TCPConn) {
			c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			for {
				if _, err := c.Write(make([]byte, 1<<20)); errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
			}
			c.Close()
		}, "reset", "job-reset"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store, conns := acceptingStore(t)
			c := testDialer(t, startRelay(t, store)).mustOpen(t, "corp/erp-sql")
			far := <-conns
			defer far.Close()
			if _, err := c.Write([]byte("some")); err != nil {
				t.Fatal(err)
			}
			tc.end(c, far)
			n, err := io.Copy(io.Discard, far)
			ended, reset := err == nil && n == 4, errors.Is(err, syscall.ECONNRESET)
			if tc.sees == "end" && !ended || tc.sees == "reset" && !reset {
				t.Errorf("the store read %d bytes, %v", n, err)
			}
			far.Close()
			<-c.Done()
			if r := c.Report(); r.Reason != tc.want {
				t.Errorf("%+v", r)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a read after Close: %v", err)
			}
			if _, err := c.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a write after Close: %v", err)
			}
			if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a deadline after Close: %v", err)
			}
		})
	}
}

// Close of the Dialer delivers what was closed, and breaks off what was not.
func TestDialerCloses(t *testing.T) {
	store, conns := acceptingStore(t)
	d := testDialer(t, startRelay(t, store))
	sent := make([]byte, 3<<20)
	whole, open := d.mustOpen(t, "corp/erp-sql"), d.mustOpen(t, "erp-sql.corp:0")
	farWhole, farOpen := <-conns, <-conns
	whole.Write([]byte("w"))
	b := make([]byte, 1)
	farWhole.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(farWhole, b); err != nil { // the other one
		t.Fatal(err)
	}
	type result struct {
		n   int64
		err error
	}
	results := make(chan result, 2)
	for _, far := range []*net.TCPConn{farWhole, farOpen} {
		far.SetReadDeadline(time.Time{})
		go func() {
			n, err := io.Copy(io.Discard, far)
			far.Close()
			results <- result{n, err}
		}()
	}
	if _, err := whole.Write(sent); err != nil {
		t.Fatal(err)
	}
	whole.Close()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	var clean, reset int
	for range 2 {
		switch r := <-results; {
		case r.err == nil && r.n == int64(len(sent)):
			clean++
		case errors.Is(r.err, syscall.ECONNRESET):
			reset++
		default:
			t.Errorf("a store read %d bytes, %v", r.n, r.err)
		}
	}
	if clean != 1 || reset != 1 {
		t.Errorf("%d ended well, %d were reset", clean, reset)
	}
	if _, err := open.Read(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read after the Dialer's Close: %v", err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", "corp/erp-sql"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a dial after Close: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestDialerRefuses(t *testing.T) {
	d := testDialer(t, startRelay(t, echoStore(t)))
	for _, tc := range []struct{ network, address, code string }{
		{"udp", "erp-sql.corp:1433", "network-unknown"},
		{"tcp", "erp-sql.corp", "target-malformed"},
		{"tcp", ":1433", "target-malformed"},
		{"tcp", "erp-sql.corp:https", "target-malformed"},
		{"tcp", "erp-sql.corp:70000", "target-malformed"},
		{"tcp", strings.Repeat("x", 300) + ":1", "target-malformed"},
		{"tcp", "corp/", "target-malformed"},
	} {
		c, err := d.DialContext(t.Context(), tc.network, tc.address)
		if codeOf(err) != tc.code || c != nil {
			t.Errorf("%s %s: %v, %v", tc.network, tc.address, c, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Errorf("never connected: %v", err)
	}
}

func TestDialerKeepsItsToken(t *testing.T) {
	d := &Dialer{Relay: "relay.example.com", Token: "ebbjob_c2VjcmV0"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("dialer", "dialer", d)
	for _, text := range []string{fmt.Sprint(d), fmt.Sprintf("%+v %#v", d, d), log.String()} {
		if strings.Contains(text, "c2VjcmV0") || !strings.Contains(text, "relay.example.com") {
			t.Errorf("printed %q", text)
		}
	}
}

// A Dialer whose connection failed for good says so, and tries again later.
func TestDialerTriesAgain(t *testing.T) {
	r := startRelay(t, echoStore(t))
	d := testDialer(t, r)
	wrong := r.token
	wrong.Secret = certs.NewSecret()
	d.Token, d.TokenFile = "", tokenFile(t, wrong)
	if _, err := d.DialContext(t.Context(), "tcp", "corp/erp-sql"); codeOf(err) != "token-invalid" {
		t.Fatalf("got %v", err)
	}
	if err := os.WriteFile(d.TokenFile, []byte(r.token.Encode()), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the new token is used", func() bool {
		c, err := d.DialContext(t.Context(), "tcp", "corp/erp-sql")
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}
