package tunnel

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipeLink is a link in memory that has a control stream and no other.
type pipeLink struct {
	*wear
	control net.Conn
	lanes   chan Stream
	done    chan struct{}
	once    sync.Once
}

type pipeStream struct{ net.Conn }

func (pipeStream) StreamID() uint64 { return 1 }

func newPipeLink(control net.Conn) *pipeLink {
	l := &pipeLink{wear: newWear(), control: control, lanes: make(chan Stream, 1), done: make(chan struct{})}
	l.lanes <- pipeStream{control}
	return l
}

func (l *pipeLink) OpenStream(context.Context) (Stream, error) { return pipeStream{l.control}, nil }

func (l *pipeLink) AcceptStream(ctx context.Context) (Stream, error) {
	select {
	case s := <-l.lanes:
		return s, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeLink) Carrier() Carrier                     { return TLS }
func (l *pipeLink) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }
func (l *pipeLink) LocalAddr() net.Addr                  { return &net.TCPAddr{} }
func (l *pipeLink) RemoteAddr() net.Addr                 { return &net.TCPAddr{} }
func (l *pipeLink) Done() <-chan struct{}                { return l.done }

func (l *pipeLink) Close(string) error {
	l.once.Do(func() { close(l.done); _ = l.control.Close() })
	return nil
}

func (l *pipeLink) Err() error {
	select {
	case <-l.done:
		return net.ErrClosed
	default:
		return nil
	}
}

// FuzzControl has a peer write anything on the control stream, from its hello
// on, and then nothing. The session takes what it understands, and ends when
// nobody answers its pings.
func FuzzControl(f *testing.F) {
	f.Fuzz(func(t *testing.T, said []byte) {
		if len(said) > 256<<10 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := NewSession(newPipeLink(near), SessionConfig{Handle: func(_ context.Context, s *Session, typ string, body json.RawMessage) (any, error) {
				var into any
				switch typ {
				case TypeEnrol:
					into = new(Enrol)
				case TypeGrant:
					into = new(GrantRequest)
				case TypeHeartbeat:
					into = new(Heartbeat)
				case TypeRenewCert:
					into = new(RenewCert)
				default:
					return nil, unknownType(typ)
				}
				if err := json.Unmarshal(body, into); err != nil {
					return nil, err
				}
				if e, ok := into.(*Enrol); ok {
					_ = e.Secret.Hash() // of any secret, or of none
				}
				return into, nil
			}})
			var peer sync.WaitGroup
			peer.Go(func() { _, _ = io.Copy(io.Discard, far) })
			peer.Go(func() { _, _ = far.Write(said) })
			start := time.Now()
			if _, err := s.Start(t.Context()); err == nil {
				if s.Run(t.Context()) == nil {
					t.Error("it ended without a reason")
				}
			}
			if took := time.Since(start); took > handshakeTimeout+(missedPings+1)*keepAlive && len(said) < 1<<10 {
				t.Errorf("it took %v", took)
			}
			_ = far.Close()
			peer.Wait()
		})
	})
}
