package tunnel

import (
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// recordTap counts records by what passes, one header after the other.
type recordTap struct {
	net.Conn
	wrote []byte
}

func (c *recordTap) Write(p []byte) (int, error) {
	c.wrote = append(c.wrote, p...)
	return c.Conn.Write(p)
}

func recordsIn(p []byte) (n uint64) {
	for len(p) >= recordHeader {
		p = p[recordHeader+int(p[3])<<8+int(p[4]):]
		n++
	}
	return n
}

// TestRecordsAreCounted: both ends of a connection count what crypto/tls writes, however it is cut into pieces.
func TestRecordsAreCounted(t *testing.T) {
	a, b := net.Pipe()
	near, far := &recordTap{Conn: a}, &recordTap{Conn: b}
	server, client := newRecordConn(near), newRecordConn(far)
	ca, err := certs.NewAuthority(strings.Repeat("0", 32), 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	job, node := newLaneEnd(t, ca, certs.RoleJob, "nightly"), newLaneEnd(t, ca, certs.RoleNode, "one")
	serverTLS, clientTLS := job.server(node.id), node.client(job.id)
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(server, serverTLS)
		defer conn.Close()
		_, err := io.Copy(conn, io.LimitReader(conn, 3<<20))
		_ = conn.CloseWrite()
		done <- err
	}()
	conn := tls.Client(client, clientTLS)
	if err := conn.HandshakeContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	go func() {
		body := make([]byte, 3<<20)
		for len(body) > 0 {
			n := min(1+rand.IntN(70_000), len(body))
			_, _ = conn.Write(body[:n])
			body = body[n:]
		}
	}()
	if n, err := io.Copy(io.Discard, conn); n != 3<<20 || err != nil {
		t.Fatal(n, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	for _, c := range []struct {
		name         string
		counted, has uint64
	}{
		{"written by the server", server.sent.records, recordsIn(near.wrote)},
		{"read by the client", client.got.records, recordsIn(near.wrote)},
		{"written by the client", client.sent.records, recordsIn(far.wrote)},
	} {
		if c.counted != c.has || c.has < 100 {
			t.Errorf("%s: %d records counted, there are %d", c.name, c.counted, c.has)
		}
	}
}

// TestConnectionsWearOut: at the limit, whichever direction reaches it.
func TestConnectionsWearOut(t *testing.T) {
	var c recordCount
	w := newWear()
	record := append([]byte{23, 3, 3, 0, 2}, 0, 0)
	for range 3 {
		for _, b := range record {
			c.pass([]byte{b}, w)
		}
	}
	if c.records != 3 || w.worn() {
		t.Fatalf("%d records, worn: %v", c.records, w.worn())
	}
	c.records = maxRecords - 1
	if c.pass(record[:4], w); w.worn() {
		t.Fatal("worn too early")
	}
	if c.pass(record[4:], w); !w.worn() {
		t.Fatal("not worn")
	}
}
