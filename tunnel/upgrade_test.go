package tunnel

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
)

// hijackable is an answer whose connection can be taken over.
type hijackable struct {
	header http.Header
	conn   net.Conn
	in     *bufio.Reader
}

func (h *hijackable) Header() http.Header         { return h.header }
func (h *hijackable) Write(b []byte) (int, error) { return h.conn.Write(b) }
func (h *hijackable) WriteHeader(int)             {}

func (h *hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(h.in, bufio.NewWriter(h.conn)), nil
}

// saying gives a connection on which a peer says something, hears everything,
// and goes.
func saying(said []byte) (conn net.Conn, gone *sync.WaitGroup) {
	near, far := net.Pipe()
	gone = new(sync.WaitGroup)
	gone.Go(func() { _, _ = io.Copy(io.Discard, far) })
	gone.Go(func() { _, _ = far.Write(said); _ = far.Close() })
	return near, gone
}

// FuzzUpgrade asks for a WebSocket in any way and says any frames on it.
func FuzzUpgrade(f *testing.F) {
	f.Fuzz(func(t *testing.T, said []byte) {
		synctest.Test(t, func(t *testing.T) {
			conn, gone := saying(said)
			defer gone.Wait()
			defer conn.Close()
			in := bufio.NewReader(conn)
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			web, err := AcceptWebSocket(&hijackable{make(http.Header), conn, in}, req)
			if err != nil {
				return
			}
			defer web.Close()
			n, _ := io.Copy(io.Discard, web)
			if n > int64(len(said)) {
				t.Errorf("%d bytes of %d", n, len(said))
			}
		})
	})
}

// FuzzUpgraded answers a request for a WebSocket in any way. None has the key
// that was asked for, so none is taken for one.
func FuzzUpgraded(f *testing.F) {
	f.Fuzz(func(t *testing.T, said []byte) {
		synctest.Test(t, func(t *testing.T) {
			conn, gone := saying(said)
			defer gone.Wait()
			defer conn.Close()
			web, err := dialWebSocket(context.Background(), conn, "relay.example.com")
			if err == nil {
				_ = web.Close()
				t.Error("taken for a WebSocket")
			}
		})
	})
}
