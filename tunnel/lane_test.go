package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// laneEnd is one identity with what it believes.
type laneEnd struct {
	id     certs.Identity
	holder *certs.Holder
	trust  *certs.Trust
}

func newLaneEnd(t *testing.T, ca *certs.Authority, role certs.Role, name string) *laneEnd {
	t.Helper()
	id := certs.Identity{TrustDomain: ca.TrustDomain(), Role: role, Tenant: "default", Name: name}
	if role == certs.RoleNode {
		id.Gateway = "corp"
	}
	key, err := certs.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(id, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	saved := &certs.Saved{Key: key, Chain: [][]byte{der}, Roots: [][]byte{ca.Certificate().Raw}}
	cert, err := saved.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	trust, err := saved.Trust()
	if err != nil {
		t.Fatal(err)
	}
	e := &laneEnd{id: id, holder: &certs.Holder{}, trust: trust}
	e.holder.Set(cert)
	return e
}

func (e *laneEnd) server(want certs.Identity) *tls.Config {
	return certs.ServerConfig(e.holder, func() *certs.Trust { return e.trust }, certs.ServerOptions{ALPN: []string{ALPNLane}, RequireClient: true, Accept: only(want)})
}

func (e *laneEnd) client(want certs.Identity) *tls.Config {
	return certs.ClientConfig(e.holder, func() *certs.Trust { return e.trust }, only(want), []string{ALPNLane})
}

func only(want certs.Identity) func(certs.Identity) error {
	return func(got certs.Identity) error {
		if got != want {
			return fmt.Errorf("%s is not %s", got, want)
		}
		return nil
	}
}

// tcpPipe is a connection with room for what nobody reads yet.
func tcpPipe(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// lanes runs both handshakes.
func lanes(t *testing.T, server, client *tls.Config) (ingress, node *LaneConn, ingressErr, nodeErr error) {
	t.Helper()
	near, far := tcpPipe(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		node, nodeErr = DialLane(t.Context(), far, client)
	}()
	ingress, ingressErr = ServeLane(t.Context(), near, server)
	<-done
	return ingress, node, ingressErr, nodeErr
}

func TestLaneBothEndsKnowEachOther(t *testing.T) {
	ca, err := certs.NewAuthority("test.example", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	job, node := newLaneEnd(t, ca, certs.RoleJob, "copy"), newLaneEnd(t, ca, certs.RoleNode, "one")
	a, b, aErr, bErr := lanes(t, job.server(node.id), node.client(job.id))
	if aErr != nil || bErr != nil {
		t.Fatal(aErr, bErr)
	}
	if peer, ok := a.Peer(); !ok || peer != node.id {
		t.Errorf("the ingress sees %v", peer)
	}
	if peer, ok := b.Peer(); !ok || peer != job.id {
		t.Errorf("the node sees %v", peer)
	}
	ea, err := a.Exporter()
	if err != nil {
		t.Fatal(err)
	}
	if eb, err := b.Exporter(); err != nil || !bytes.Equal(ea, eb) || len(ea) != 32 {
		t.Errorf("exporters %x and %x, %v", ea, eb, err)
	}
	body := make([]byte, 300_000)
	rand.Read(body)
	for _, way := range []struct{ from, to *LaneConn }{{a, b}, {b, a}} {
		written := make(chan error, 1)
		go func() {
			_, err := way.from.Write(body)
			written <- err
		}()
		got := make([]byte, len(body))
		if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("the bytes differ, %v", err)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
	}
	// A writer that is stuck does not keep Close from coming back.
	stuck := make(chan error, 1)
	go func() {
		for {
			if _, err := a.Write(body); err != nil {
				stuck <- err
				return
			}
		}
	}()
	a.Close()
	if err := <-stuck; err == nil {
		t.Error("written after Close")
	}
	b.Close()
}

func TestLaneRefusesOthers(t *testing.T) {
	ca, err := certs.NewAuthority("test.example", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := certs.NewAuthority("test.example", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	job, node, other := newLaneEnd(t, ca, certs.RoleJob, "copy"), newLaneEnd(t, ca, certs.RoleNode, "one"), newLaneEnd(t, ca, certs.RoleNode, "two")
	liar := newLaneEnd(t, foreign, certs.RoleNode, "one")
	liar.trust = node.trust
	noProtocol := node.client(job.id)
	noProtocol.NextProtos = nil
	noCertificate := certs.ClientConfig(nil, func() *certs.Trust { return node.trust }, only(job.id), []string{ALPNLane})
	for name, tc := range map[string]struct{ server, client *tls.Config }{
		"another node":            {job.server(node.id), other.client(job.id)},
		"a node of another CA":    {job.server(node.id), liar.client(job.id)},
		"another job":             {job.server(node.id), node.client(other.id)},
		"no certificate":          {job.server(node.id), noCertificate},
		"no protocol in the ALPN": {job.server(node.id), noProtocol},
	} {
		a, b, aErr, bErr := lanes(t, tc.server, tc.client)
		if aErr == nil && bErr == nil {
			t.Errorf("%s: accepted", name)
		}
		if a != nil {
			a.Close()
		}
		if b != nil {
			b.Close()
		}
	}
}

// countedConn counts writes.
type countedConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestLaneGathersRecords(t *testing.T) {
	ca, err := certs.NewAuthority("test.example", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	job, node := newLaneEnd(t, ca, certs.RoleJob, "copy"), newLaneEnd(t, ca, certs.RoleNode, "one")
	near, far := net.Pipe()
	counted := &countedConn{Conn: near}
	accepted := make(chan *LaneConn, 1)
	go func() {
		b, err := DialLane(t.Context(), far, node.client(job.id))
		if err != nil {
			t.Error(err)
		}
		accepted <- b
	}()
	a, err := ServeLane(t.Context(), counted, job.server(node.id))
	if err != nil {
		t.Fatal(err)
	}
	b := <-accepted
	before := counted.writes.Load()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.CopyN(io.Discard, b, 256<<10)
	}()
	if _, err := a.Write(make([]byte, 256<<10)); err != nil {
		t.Fatal(err)
	}
	<-done
	if n := counted.writes.Load() - before; n != 1 {
		t.Errorf("256 KiB took %d writes", n)
	}
	a.Close()
	b.Close()
}

func TestLaneHandshakeEndsWithItsContext(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := ServeLane(ctx, near, &tls.Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
