package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

var (
	testNode  = certs.Identity{TrustDomain: "abc", Role: certs.RoleNode, Tenant: "default", Gateway: "corp", Name: "n1"}
	testRelay = certs.Identity{TrustDomain: "abc", Role: certs.RoleRelay, Name: "r"}
)

// pki is a CA with a node and a relay.
type pki struct {
	ca     *certs.Authority
	client func() *tls.Config
	server *tls.Config
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	ca, err := certs.NewAuthority("abc", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	hold := func(id certs.Identity) *certs.Holder {
		key, err := certs.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		der, err := ca.Issue(id, key.Public(), time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		leaf, _ := x509.ParseCertificate(der)
		h := new(certs.Holder)
		h.Set(&tls.Certificate{Certificate: [][]byte{der, ca.Certificate().Raw}, PrivateKey: key, Leaf: leaf})
		return h
	}
	trust := &certs.Trust{TrustDomain: "abc", Roots: []*x509.Certificate{ca.Certificate()}}
	believe := func() *certs.Trust { return trust }
	node := hold(testNode)
	return &pki{
		ca: ca,
		client: func() *tls.Config {
			return certs.ClientConfig(node, believe, func(id certs.Identity) error {
				if id.Role != certs.RoleRelay {
					return errors.New("not a relay")
				}
				return nil
			}, []string{ALPN})
		},
		server: certs.ServerConfig(hold(testRelay), believe, certs.ServerOptions{ALPN: []string{ALPN}}),
	}
}

// host accepts links on every carrier, on loopback.
type host struct {
	endpoint Endpoint
	links    chan Link
	quic     *QUICListener
}

func newHost(t testing.TB, p *pki) *host {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{links: make(chan Link, 32)}
	if h.quic, err = ListenQUIC(udp, p.server); err != nil {
		t.Fatal(err)
	}
	h.endpoint = Endpoint{
		Host: "127.0.0.1", TLSPort: tcp.Addr().(*net.TCPAddr).Port, QUICPort: udp.LocalAddr().(*net.UDPAddr).Port,
		HTTPPort: plain.Addr().(*net.TCPAddr).Port,
	}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	var upgraded handlers
	keep := func(link Link) {
		select {
		case h.links <- link:
		case <-ctx.Done():
			_ = link.Close("test over")
		}
	}
	serve := func(conn net.Conn) {
		if link, err := ServeTLS(ctx, conn, p.server); err == nil {
			keep(link)
		}
	}
	site := &http.Server{
		ReadHeaderTimeout: handshakeTimeout, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != TunnelPath {
				http.NotFound(w, req)
			} else if conn, err := AcceptWebSocket(w, req); err == nil {
				upgraded.run(conn, serve)
			}
		}),
	}
	https := &handed{conns: make(chan net.Conn), done: ctx.Done()}
	for _, l := range []net.Listener{plain, https} {
		tasks.Go(func() { _ = site.Serve(l) })
	}
	public, err := p.ca.IssuePublic([]string{"127.0.0.1"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tasks.Go(func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				kind, conn, err := Peek(conn, handshakeTimeout)
				switch {
				case err != nil:
				case kind == KindSession:
					serve(conn)
				default:
					https.hand(WebTLS(conn, &tls.Config{Certificates: []tls.Certificate{*public}, NextProtos: []string{"http/1.1"}}))
				}
			})
		}
	})
	tasks.Go(func() {
		for {
			link, err := h.quic.Accept(ctx)
			if err != nil {
				return
			}
			keep(link)
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = tcp.Close()
		_ = site.Close()
		_ = h.quic.Close()
		upgraded.end()
		tasks.Wait()
		for len(h.links) > 0 {
			_ = (<-h.links).Close("test over")
		}
	})
	return h
}

// handlers run what HTTP handlers leave behind; nobody else waits for those.
type handlers struct {
	mu    sync.Mutex
	over  bool
	tasks sync.WaitGroup
}

func (h *handlers) run(conn net.Conn, serve func(net.Conn)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		_ = conn.Close()
		return
	}
	h.tasks.Go(func() { serve(conn) })
}

func (h *handlers) end() {
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
	h.tasks.Wait()
}

// handed is a listener of connections that are handed to it.
type handed struct {
	conns chan net.Conn
	done  <-chan struct{}
}

func (h *handed) hand(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		_ = conn.Close()
	}
}

func (h *handed) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handed) Close() error   { return nil }
func (h *handed) Addr() net.Addr { return &net.TCPAddr{} }

// pair is two ends of a session that run.
func pair(t *testing.T, c Carrier, near, far SessionConfig) (a, b *Session) {
	t.Helper()
	p := newPKI(t)
	h := newHost(t, p)
	d := &Dialer{Endpoint: h.endpoint, Carriers: []Carrier{c}, TLS: p.client}
	link, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	near.Initiator = true
	near.Hello.Role = RoleControl
	far.Hello.Role = RoleRelay
	a = NewSession(link, near)
	started := make(chan error, 1)
	go func() {
		_, err := a.Start(t.Context())
		started <- err
	}()
	b = NewSession(<-h.links, far)
	if _, err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	running.Go(func() { _ = b.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return a, b
}

func overEach(t *testing.T, f func(t *testing.T, c Carrier)) {
	for _, c := range Carriers {
		t.Run(string(c), func(t *testing.T) { f(t, c) })
	}
}

func TestSessionCallsAndNotices(t *testing.T) {
	overEach(t, func(t *testing.T, c Carrier) {
		notices := make(chan string, 1)
		handle := func(_ context.Context, s *Session, typ string, body json.RawMessage) (any, error) {
			switch typ {
			case TypeGrant:
				var req GrantRequest
				if err := json.Unmarshal(body, &req); err != nil {
					return nil, err
				}
				if req.Store == "bad" {
					return nil, Errorf("job-not-allowed", "relay", "ask", "no")
				}
				return Granted{Grant: req.Store}, nil
			case TypeRevoked:
				notices <- string(body)
				return nil, nil
			}
			return nil, unknownType(typ)
		}
		a, b := pair(t, c, SessionConfig{Handle: handle}, SessionConfig{Handle: handle})
		for _, s := range []*Session{a, b} {
			var g Granted
			if err := s.Call(t.Context(), TypeGrant, GrantRequest{Store: "erp"}, &g); err != nil || g.Grant != "erp" {
				t.Errorf("%+v %v", g, err)
			}
			var refused *Error
			if err := s.Call(t.Context(), TypeGrant, GrantRequest{Store: "bad"}, &g); !errors.As(err, &refused) || refused.ErrCode != "job-not-allowed" || refused.Advise != "ask" {
				t.Errorf("%v", err)
			}
			if err := s.Call(t.Context(), "no-such", nil, nil); !errors.As(err, &refused) || refused.ErrCode != "message-unknown" {
				t.Errorf("%v", err)
			}
			if err := s.Notify(TypeRevoked, Revoked{Job: "j"}); err != nil {
				t.Error(err)
			}
			if got := <-notices; !strings.Contains(got, `"j"`) {
				t.Error(got)
			}
			if rtt, err := s.Ping(t.Context()); err != nil || rtt <= 0 || s.RTT() <= 0 {
				t.Errorf("ping %v %v", rtt, err)
			}
		}
		if id, ok := b.Peer(); !ok || id != testNode {
			t.Errorf("the relay saw %v", id)
		}
		if id, ok := a.Peer(); !ok || id != testRelay {
			t.Errorf("the node saw %v", id)
		}
	})
}

func TestLanesBothWays(t *testing.T) {
	overEach(t, func(t *testing.T, c Carrier) {
		lane := func(_ context.Context, s *Session, join Join, stream Stream) {
			exporter, err := s.LaneExporter(stream)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(stream, "%s %x\n", join.Ingress, exporter)
			_, _ = io.Copy(stream, stream)
			_ = stream.Close()
		}
		a, b := pair(t, c, SessionConfig{Lane: lane}, SessionConfig{Lane: lane})
		for _, s := range []*Session{a, b} {
			stream, err := s.OpenLane(t.Context(), Join{Ingress: "i", Node: "n", Express: true})
			if err != nil {
				t.Fatal(err)
			}
			exporter, err := s.LaneExporter(stream)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("i %x\n", exporter)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != want {
				t.Errorf("%q %v, want %q", got, err, want)
			}
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			go func() { _, _ = stream.Write(sent) }()
			back := make([]byte, len(sent))
			if _, err := io.ReadFull(stream, back); err != nil || !bytes.Equal(back, sent) {
				t.Errorf("the echo differs: %v", err)
			}
			read := make(chan error, 1)
			go func() { _, err := stream.Read(make([]byte, 1)); read <- err }()
			_ = stream.Close()
			if err := <-read; err == nil {
				t.Error("a closed lane could be read")
			}
		}
	})
}

func TestPeerThatGoesEndsTheSession(t *testing.T) {
	overEach(t, func(t *testing.T, c Carrier) {
		call := make(chan error, 1)
		stuck, release := make(chan struct{}), make(chan struct{})
		a, b := pair(t, c, SessionConfig{}, SessionConfig{Handle: func(ctx context.Context, _ *Session, _ string, _ json.RawMessage) (any, error) {
			close(stuck)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, nil
		}})
		go func() { call <- a.Call(t.Context(), TypeGrant, nil, nil) }()
		<-stuck
		_ = b.Close("bye")
		if err := <-call; err == nil {
			t.Error("the call was answered")
		}
		<-a.Done()
		if err := a.Link().Err(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("over because of %v", err)
		}
		close(release)
	})
}

func TestRefusedHello(t *testing.T) {
	overEach(t, func(t *testing.T, c Carrier) {
		p := newPKI(t)
		h := newHost(t, p)
		link, err := (&Dialer{Endpoint: h.endpoint, Carriers: []Carrier{c}, TLS: p.client}).Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		far := make(chan error, 1)
		go func() {
			s := NewSession(<-h.links, SessionConfig{Accept: func(context.Context, *Session, Hello) (Hello, error) {
				return Hello{}, Errorf("node-unknown", "registration", "register", "who?")
			}})
			_, err := s.Start(context.Background())
			far <- err
		}()
		_, err = NewSession(link, SessionConfig{Initiator: true}).Start(t.Context())
		var refused *Error
		if !errors.As(err, &refused) || refused.ErrCode != "node-unknown" || refused.Advise != "register" {
			t.Errorf("%v", err)
		}
		if err := <-far; err == nil {
			t.Error("the far end accepted")
		}
	})
}

// TestHostileControl writes to a session's control stream what no honest peer
// does. The session ends or answers; it does not hang.
func TestHostileControl(t *testing.T) {
	frame := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	tests := map[string][]byte{
		"too long":           binary.BigEndian.AppendUint32(nil, 1<<31),
		"empty":              binary.BigEndian.AppendUint32(nil, 0),
		"not JSON":           frame("hello?"),
		"another type first": frame(`{"type":"heartbeat"}`),
		"another version":    frame(`{"type":"hello","body":{"version":99}}`),
		"a wrong body":       frame(`{"type":"hello","body":[]}`),
	}
	for name, sent := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPKI(t)
			h := newHost(t, p)
			link, err := (&Dialer{Endpoint: h.endpoint, Carriers: []Carrier{TLS}, TLS: p.client}).Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close("test over")
			stream, err := link.OpenStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Write(sent); err != nil {
				t.Fatal(err)
			}
			if _, err := NewSession(<-h.links, SessionConfig{}).Start(t.Context()); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzMessage(f *testing.F) {
	good, _ := encodeMessage(envelope{Type: TypeGrant, ID: 1}, GrantRequest{Store: "erp"})
	f.Add(good)
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(_ *testing.T, b []byte) {
		var e envelope
		if readFrame(bytes.NewReader(b), maxMessage, &e) == nil {
			var h Hello
			_ = json.Unmarshal(e.Body, &h)
			var r Enrol
			_ = json.Unmarshal(e.Body, &r)
		}
		var j Join
		_ = readFrame(bytes.NewReader(b), maxJoin, &j)
	})
}
