package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/iotest"
)

// output is a writer with an end.
type output struct {
	bytes.Buffer
	room     int // bytes that it takes; negative: all
	closed   bool
	closeErr error
}

func (o *output) Write(p []byte) (int, error) {
	if o.room >= 0 && o.Len()+len(p) > o.room {
		return 0, syscall.EPIPE
	}
	return o.Buffer.Write(p)
}

func (o *output) Close() error {
	o.closed = true
	return o.closeErr
}

func TestStdioCopiesBothWays(t *testing.T) {
	d := testDialer(t, startRelay(t, echoStore(t)))
	body := make([]byte, 5<<20)
	rand.Read(body)
	c, out := d.mustOpen(t, "corp/erp-sql"), &output{room: -1}
	if err := Stdio(t.Context(), c, bytes.NewReader(body), out); err != nil {
		t.Fatal(err)
	}
	if !out.closed || !bytes.Equal(out.Bytes(), body) || c.Report().Reason != ReasonOK {
		t.Errorf("%d bytes of %d, closed %v, %+v", out.Len(), len(body), out.closed, c.Report())
	}
}

// The store may end first: what is sent after that still arrives.
func TestStdioHalfCloses(t *testing.T) {
	store, conns := acceptingStore(t)
	c := testDialer(t, startRelay(t, store)).mustOpen(t, "corp/erp-sql")
	far := <-conns
	defer far.Close()
	in, feed := io.Pipe()
	done := make(chan error, 1)
	out := &output{room: -1}
	go func() { done <- Stdio(t.Context(), c, in, out) }()
	far.Write([]byte("from the store"))
	far.CloseWrite()
	until(t, "the store's end", func() bool { return c.pipe.Ended() })
	feed.Write([]byte("from the job"))
	feed.Close()
	if got, err := io.ReadAll(far); string(got) != "from the job" || err != nil {
		t.Errorf("the store read %q, %v", got, err)
	}
	if err := <-done; err != nil || out.String() != "from the store" {
		t.Errorf("%v, %q", err, out.String())
	}
}

// No other end is a good one, and the store is told.
func TestStdioFails(t *testing.T) {
	for _, tc := range []struct {
		name   string
		in     func(waiting io.Reader) io.Reader
		out    *output
		play   func(store *net.TCPConn, interrupt func())
		code   string
		closed bool // the output, by its writer
	}{
		{"store resets", nil, &output{room: -1}, func(store *net.TCPConn, _ func()) {
			store.SetLinger(0)
			store.Close()
		}, "store-reset", false},
		{"output is gone", nil, &output{room: 500}, func(store *net.TCPConn, _ func()) { store.Write(make([]byte, 10_000)) }, "output-failed", false},
		{"output fails at its end", nil, &output{room: -1, closeErr: errors.New("disk full")}, func(store *net.TCPConn, _ func()) { store.CloseWrite() }, "output-failed", true},
		{"input fails", func(io.Reader) io.Reader { return iotest.ErrReader(errors.New("broken")) }, &output{room: -1}, nil, "input-failed", false},
		{"interrupted", nil, &output{room: -1}, func(_ *net.TCPConn, interrupt func()) { interrupt() }, "interrupted", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store, conns := acceptingStore(t)
			c := testDialer(t, startRelay(t, store)).mustOpen(t, "corp/erp-sql")
			far := <-conns
			defer far.Close()
			waiting, feed := io.Pipe()
			defer feed.Close()
			in := io.Reader(waiting)
			if tc.in != nil {
				in = tc.in(waiting)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- Stdio(ctx, c, in, tc.out) }()
			if tc.play != nil {
				tc.play(far, cancel)
			}
			var e *Error
			if err := <-done; !errors.As(err, &e) || e.Code() != tc.code || e.Hop() == "" || e.Advice() == "" {
				t.Errorf("got %v", err)
			}
			if tc.out.closed != tc.closed {
				t.Errorf("output closed: %v", tc.out.closed)
			}
			if _, err := io.Copy(io.Discard, far); err == nil {
				t.Error("the store read a good end")
			}
		})
	}
}
