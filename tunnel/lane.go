package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// LaneConn is a lane with TLS of its own, between a client's ingress and a node:
// the relay in between moves its bytes and cannot read them. It writes records
// together, so writers write as much at once as they have. One goroutine reads,
// any may write and close.
type LaneConn struct {
	*tls.Conn
	records *laneRecords
	state   tls.ConnectionState

	mu sync.Mutex // held while records are written
}

// ServeLane makes the TLS of a lane at its ingress: the client is the server.
// config requires and verifies the node's certificate and has the protocol
// ALPNLane. conn belongs to the lane, and is closed if it fails.
func ServeLane(ctx context.Context, conn net.Conn, config *tls.Config) (*LaneConn, error) {
	records := &laneRecords{recordConn: newRecordConn(conn)}
	return newLaneConn(ctx, tls.Server(records, config), records)
}

// DialLane makes the TLS of a lane at its node, as ServeLane does at the other
// end: the node is the client.
func DialLane(ctx context.Context, conn net.Conn, config *tls.Config) (*LaneConn, error) {
	records := &laneRecords{recordConn: newRecordConn(conn)}
	return newLaneConn(ctx, tls.Client(records, config), records)
}

func newLaneConn(ctx context.Context, conn *tls.Conn, records *laneRecords) (*LaneConn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = records.Conn.Close()
		return nil, fmt.Errorf("tunnel: lane: %w", err)
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != ALPNLane {
		_ = records.Conn.Close()
		return nil, fmt.Errorf("tunnel: lane: the peer chose the protocol %q, not %s", state.NegotiatedProtocol, ALPNLane)
	}
	ahead := readAhead
	if web := webOf(records.Conn); web != nil {
		web.wire.gather(ahead)
		ahead = webRead
	}
	records.gather(ahead)
	return &LaneConn{Conn: conn, records: records, state: state}, nil
}

// Worn tells whether the lane's keys have protected as many records as they may:
// another lane has to take its place.
func (l *LaneConn) Worn() bool {
	web := webOf(l.records.Conn)
	return l.records.wear.worn() || web != nil && web.wire.worn()
}

// Peer is the verified identity of the other end; false where it showed none.
func (l *LaneConn) Peer() (certs.Identity, bool) { return certs.PeerIdentity(l.state) }

// Exporter is keying material that only the lane's two ends know (RFC 8446
// §7.5, without a context).
func (l *LaneConn) Exporter() ([]byte, error) {
	return l.state.ExportKeyingMaterial(laneLabel, nil, exporterLength)
}

func (l *LaneConn) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.Conn.Write(p)
	if err != nil {
		return n, err
	}
	return n, l.records.flush()
}

// WriteNow writes frames as far as that needs no waiting. left: the rest is to be
// written with Flush, before anything else is.
func (l *LaneConn) WriteNow(frames ...[]byte) (left bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, frame := range frames {
		if len(frame) == 0 {
			continue
		}
		if _, err := l.Conn.Write(frame); err != nil {
			return false, err
		}
	}
	return l.records.flushNow()
}

// Flush writes what WriteNow left.
func (l *LaneConn) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records.flush()
}

// Close says goodbye where nobody is writing, and closes.
func (l *LaneConn) Close() error {
	if l.mu.TryLock() {
		_ = l.records.SetWriteDeadline(time.Now().Add(time.Second))
		_ = l.CloseWrite()
		_ = l.records.flush()
		l.mu.Unlock()
	}
	return l.records.Conn.Close()
}

// laneRecords is a recordConn that takes records from any goroutine: crypto/tls
// also writes while it reads (alerts, answers to a peer's key update).
type laneRecords struct {
	*recordConn
	mu sync.Mutex // held while records are added or written
}

func (c *laneRecords) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recordConn.Write(p)
}

func (c *laneRecords) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recordConn.flush()
}

func (c *laneRecords) flushNow() (left bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recordConn.flushNow()
}
