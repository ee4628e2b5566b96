//go:build linux

package storms

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// rogue is a peer that has a certificate, and speaks as it likes.
type rogue struct {
	id    certs.Identity
	trust *certs.Trust
	held  certs.Holder
	relay tunnel.Endpoint
}

// enrol gets a certificate with a job's token or a gateway's key.
func enrol(ctx context.Context, t *testing.T, p *path, pin certs.Pin, req tunnel.Enrol) *rogue {
	t.Helper()
	r := &rogue{relay: tunnel.Endpoint{Host: "127.0.0.1", TLSPort: port(t, p.relay.TLS), QUICPort: port(t, p.relay.QUIC)}}
	var got sync.Mutex // the handshake's goroutine may be another one
	link, err := r.dial(ctx, tunnel.TLS, certs.PinnedConfig(pin, []string{tunnel.ALPN}, func(trust *certs.Trust, _ certs.Identity) {
		got.Lock()
		defer got.Unlock()
		r.trust = trust
	}))
	if err != nil {
		t.Fatal(err)
	}
	key, err := certs.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := tunnel.EnrolOver(ctx, link, key, req, "rogue")
	if err != nil {
		t.Fatal(err)
	}
	saved := certs.Saved{Key: key, Chain: answer.Chain, Roots: answer.Roots}
	cert, err := saved.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	r.held.Set(cert)
	if r.id, err = certs.ParseIdentity(answer.Identity); err != nil {
		t.Fatal(err)
	}
	got.Lock()
	defer got.Unlock()
	return r
}

func port(t *testing.T, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (r *rogue) believe() *certs.Trust { return r.trust }

func (r *rogue) dial(ctx context.Context, c tunnel.Carrier, config *tls.Config) (tunnel.Link, error) {
	d := tunnel.Dialer{Endpoint: r.relay, Carriers: []tunnel.Carrier{c}, TLS: func() *tls.Config { return config }}
	return d.Dial(ctx)
}

// link opens a connection as whom the certificate says.
func (r *rogue) link(ctx context.Context, t *testing.T, c tunnel.Carrier) tunnel.Link {
	t.Helper()
	link, err := r.dial(ctx, c, certs.ClientConfig(&r.held, r.believe, func(certs.Identity) error { return nil }, []string{tunnel.ALPN}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close("test over") })
	return link
}

// session opens a session and runs it until the test is over.
func (r *rogue) session(ctx context.Context, t *testing.T, c tunnel.Carrier, cfg tunnel.SessionConfig) *tunnel.Session {
	t.Helper()
	cfg.Initiator = true
	s := tunnel.NewSession(r.link(ctx, t, c), cfg)
	if _, err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = s.Run(context.WithoutCancel(ctx))
	}()
	t.Cleanup(func() { _ = s.Close("test over"); <-over })
	return s
}

// raw opens a control stream by hand and says hello; what follows is the test's.
func (r *rogue) raw(ctx context.Context, t *testing.T, c tunnel.Carrier) tunnel.Stream {
	t.Helper()
	control, err := r.link(ctx, t, c).OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = control.SetDeadline(time.Now().Add(patience))
	hello := `{"type":"hello","body":{"version":1,"role":"client","time":"` + time.Now().UTC().Format(time.RFC3339) + `"}}`
	if err := write(control, message(hello)); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(control, size[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, control, int64(binary.BigEndian.Uint32(size[:]))); err != nil {
		t.Fatal(err)
	}
	return control
}

// message is a control message on the wire.
func message(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// lane is a lane whose frames the test writes itself.
type lane struct {
	net.Conn
	grant string
}

// lane opens a lane to the node, says an honest HELLO, and reads the answer.
func (r *rogue) lane(ctx context.Context, t *testing.T, s *tunnel.Session) *lane {
	t.Helper()
	var granted tunnel.Granted
	if err := s.Call(ctx, tunnel.TypeGrant, tunnel.GrantRequest{Gateway: corp, Store: store, Run: "storm", Lanes: 1}, &granted); err != nil {
		t.Fatal(err)
	}
	stream, err := s.OpenLane(ctx, tunnel.Join{Token: granted.LaneTokens[0], Ingress: r.id.String(), Node: granted.Node, Express: true})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tunnel.ServeLane(ctx, stream, certs.ServerConfig(&r.held, r.believe, certs.ServerOptions{ALPN: []string{tunnel.ALPNLane}, RequireClient: true}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	exporter, err := conn.Exporter()
	if err != nil {
		t.Fatal(err)
	}
	var bundle, secret [16]byte
	_, _ = rand.Read(bundle[:])
	_, _ = rand.Read(secret[:])
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := write(conn, hello(1, bundle, secret[:], exporter, true)); err != nil {
		t.Fatal(err)
	}
	l := &lane{Conn: conn, grant: granted.Grant}
	if typ, _ := l.next(t); typ != 1 {
		t.Fatalf("the node answers HELLO with a frame of type %d", typ)
	}
	return l
}

// hello is a HELLO of a role: 1 the ingress, 2 the node.
func hello(role byte, bundle [16]byte, secret, exporter []byte, tell bool) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte{role})
	h.Write(bundle[:])
	h.Write(exporter)
	body := append([]byte{1, 0, role, 0}, bundle[:]...)
	body = append(body, 0, 0, 0, 0, 0, 0, 0, 9)
	body = h.Sum(body)
	if tell {
		body[1] = 1
		body = append(body, secret...)
	}
	return frame(1, body)
}

// frame is a frame of any type.
func frame(typ byte, body ...[]byte) []byte {
	all := []byte{typ, 0, 0, 0}
	for _, b := range body {
		all = append(all, b...)
	}
	n := len(all) - 4
	all[1], all[2], all[3] = byte(n>>16), byte(n>>8), byte(n)
	return all
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (l *lane) open(stream uint64) []byte {
	var uuid [16]byte
	_, _ = rand.Read(uuid[:])
	return frame(2, number(stream), uuid[:], number(1<<16), []byte(l.grant))
}

func data(stream, offset uint64, n int) []byte {
	return frame(5, number(stream), number(offset), make([]byte, n))
}

func reset(stream uint64) []byte { return frame(9, number(stream), []byte{0, 41}, number(0)) }

// next reads a frame that is not about the lane itself; type 0 is the lane's end.
func (l *lane) next(t *testing.T) (typ byte, body []byte) {
	t.Helper()
	_ = l.SetReadDeadline(time.Now().Add(patience))
	for {
		var head [4]byte
		if _, err := io.ReadFull(l, head[:]); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Error("the lane neither answers nor ends")
			}
			return 0, nil
		}
		body := make([]byte, int(head[1])<<16|int(head[2])<<8|int(head[3]))
		if _, err := io.ReadFull(l, body); err != nil {
			return 0, nil
		}
		switch typ := head[0]; typ {
		case 10, 12: // LACK, PONG
		case 11:
			_ = write(l, frame(12, body))
		default:
			return typ, body
		}
	}
}

// ends waits until the lane is over.
func (l *lane) ends(t *testing.T) {
	t.Helper()
	for typ, _ := l.next(t); typ != 0; typ, _ = l.next(t) {
	}
}

// resets waits for a stream's RST and gives its code.
func (l *lane) resets(t *testing.T, stream uint64) (code uint16) {
	t.Helper()
	for {
		typ, body := l.next(t)
		if typ == 0 {
			t.Errorf("the lane ended before stream %d was reset", stream)
			return 0
		}
		if typ == 9 && binary.BigEndian.Uint64(body) == stream {
			return binary.BigEndian.Uint16(body[8:])
		}
	}
}

// opens waits until a stream is open, and gives the credit.
func (l *lane) opens(t *testing.T) (credit uint64) {
	t.Helper()
	typ, body := l.next(t)
	if typ != 3 {
		t.Fatalf("OPEN was answered by a frame of type %d: %q", typ, body)
	}
	return binary.BigEndian.Uint64(body[8:])
}
