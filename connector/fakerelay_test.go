package connector

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// fakeRelay is a relay of one gateway, made of the parts that real ones are made
// of, which does as it is told.
type fakeRelay struct {
	t       testing.TB
	ahead   time.Duration // of its clock
	passed  atomic.Int64  // that it went on more than ours, a time.Duration
	ca      *certs.Authority
	id      certs.Identity
	holder  *certs.Holder
	trust   *certs.Trust
	signer  *grant.Signer
	secret  certs.Secret
	own     *bundle.Bundle
	tcp     net.Listener
	udp     *net.UDPConn
	quic    *tunnel.QUICListener
	stop    func()
	visits  chan *visit // sessions of nodes that are up
	beats   chan tunnel.Heartbeat
	serving sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	life    time.Duration // of nodes' certificates
	refuse  error         // of hellos of nodes
	enrol   func(tunnel.Enrol) error
	renew   func(tunnel.RenewCert) error
	config  func(tunnel.NodeConfig) error
	hello   tunnel.Hello
	relays  []tunnel.RelayInfo // what it tells at enrolments
	counter int
	keys    [][]byte // CSRs that were signed
	live    map[*visit]bool
}

// visit is a session of a node.
type visit struct {
	*tunnel.Session
	role  string
	hello tunnel.Hello
}

type relayOptions struct {
	noTLS, noQUIC bool
	name          string           // of its identity; empty: r1
	ca            *certs.Authority // nil: a new one
	tlsAddr       string
	quicAddr      string
	ahead         time.Duration // of its clock
}

func startRelay(t testing.TB, opt relayOptions) *fakeRelay {
	t.Helper()
	now := time.Now().Add(opt.ahead)
	if opt.ca == nil {
		ca, err := certs.NewAuthority("0123456789abcdef0123456789abcdef", 1, now)
		if err != nil {
			t.Fatal(err)
		}
		opt.ca = ca
	}
	r := &fakeRelay{
		t: t, ahead: opt.ahead, ca: opt.ca, secret: certs.NewSecret(), life: 24 * time.Hour, live: make(map[*visit]bool),
		id:     certs.Identity{TrustDomain: opt.ca.TrustDomain(), Role: certs.RoleRelay, Name: cmpOr(opt.name, "r1")},
		holder: new(certs.Holder), visits: make(chan *visit, 64), beats: make(chan tunnel.Heartbeat, 64),
	}
	key, chain := r.issue(r.id, nil, 24*time.Hour)
	saved := &certs.Saved{Key: key, Chain: chain, Roots: [][]byte{r.ca.Certificate().Raw}}
	certificate, err := saved.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	r.holder.Set(certificate)
	if r.trust, err = saved.Trust(); err != nil {
		t.Fatal(err)
	}
	if r.signer, err = grant.NewSigner(key, chain); err != nil {
		t.Fatal(err)
	}
	r.own = bundle.NewIngress(bundle.Config{Incarnation: 1})
	ctx, cancel := context.WithCancel(context.Background())
	if !opt.noTLS {
		if r.tcp, err = net.Listen("tcp", cmpOr(opt.tlsAddr, "127.0.0.1:0")); err != nil {
			t.Fatal(err)
		}
		r.serving.Go(func() { r.acceptTCP(ctx) })
	}
	if !opt.noQUIC {
		addr, err := net.ResolveUDPAddr("udp", cmpOr(opt.quicAddr, "127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		if r.udp, err = net.ListenUDP("udp", addr); err != nil {
			t.Fatal(err)
		}
		if r.quic, err = tunnel.ListenQUIC(r.udp, r.tls()); err != nil {
			t.Fatal(err)
		}
		r.serving.Go(func() { r.acceptQUIC(ctx) })
	}
	r.stop = sync.OnceFunc(func() {
		r.own.Close(bundle.CodeIngressStopped)
		cancel()
		if r.tcp != nil {
			_ = r.tcp.Close()
		}
		if r.quic != nil {
			_ = r.quic.Close()
		}
		r.serving.Wait()
	})
	t.Cleanup(r.stop)
	return r
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// issue makes a certificate for pub, or for a new key.
func (r *fakeRelay) issue(id certs.Identity, pub any, life time.Duration) (ed25519.PrivateKey, [][]byte) {
	var key ed25519.PrivateKey
	if pub == nil {
		var err error
		if key, err = certs.GenerateKey(); err != nil {
			r.t.Error(err)
		}
		pub = key.Public()
	}
	der, err := r.ca.Issue(id, pub, r.now(), life)
	if err != nil {
		r.t.Error(err)
	}
	return key, [][]byte{der, r.ca.Certificate().Raw}
}

// now is the relay's clock.
func (r *fakeRelay) now() time.Time { return time.Now().Add(r.ahead + time.Duration(r.passed.Load())) }

func (r *fakeRelay) tls() *tls.Config {
	return certs.ServerConfig(r.holder, func() *certs.Trust { return r.trust }, certs.ServerOptions{ALPN: []string{tunnel.ALPN}})
}

func (r *fakeRelay) ports() tunnel.Ports {
	var p tunnel.Ports
	if r.tcp != nil {
		p.TLS = r.tcp.Addr().(*net.TCPAddr).Port
	}
	if r.udp != nil {
		p.QUIC = r.udp.LocalAddr().(*net.UDPAddr).Port
	}
	return p
}

func (r *fakeRelay) acceptTCP(ctx context.Context) {
	for {
		conn, err := r.tcp.Accept()
		if err != nil {
			return
		}
		r.serving.Go(func() {
			link, err := tunnel.ServeTLS(ctx, conn, r.tls())
			if err == nil {
				r.serve(ctx, link)
			}
		})
	}
}

func (r *fakeRelay) acceptQUIC(ctx context.Context) {
	for {
		link, err := r.quic.Accept(ctx)
		if err != nil {
			return
		}
		r.serving.Go(func() { r.serve(ctx, link) })
	}
}

func (r *fakeRelay) serve(ctx context.Context, link tunnel.Link) {
	v := &visit{}
	v.Session = tunnel.NewSession(link, tunnel.SessionConfig{
		Accept: func(_ context.Context, _ *tunnel.Session, hello tunnel.Hello) (tunnel.Hello, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			v.role, v.hello = hello.Role, hello
			answer := r.hello
			answer.Role, answer.Relay, answer.Ports = tunnel.RoleRelay, r.id.String(), r.ports()
			if hello.Role != tunnel.RoleEnrol {
				return answer, r.refuse
			}
			return answer, nil
		},
		Handle: r.handle, Now: r.now,
	})
	if _, err := v.Start(ctx); err != nil {
		return
	}
	if v.role == tunnel.RoleEnrol {
		_ = v.Run(ctx)
		return
	}
	r.mu.Lock()
	r.live[v] = true
	r.mu.Unlock()
	r.serving.Go(func() {
		if r.openLane(ctx, v) == nil {
			r.visits <- v
		}
	})
	_ = v.Run(ctx)
	r.mu.Lock()
	delete(r.live, v)
	r.mu.Unlock()
}

// openLane gives the relay's own bundle a lane over a node's session.
func (r *fakeRelay) openLane(ctx context.Context, v *visit) error {
	classes := []bool{v.role == tunnel.RoleControl}
	if v.Link().Carrier() == tunnel.QUIC {
		classes = []bool{true, false}
	}
	for _, express := range classes {
		if err := r.openLaneOf(ctx, v, express); err != nil {
			return err
		}
	}
	return nil
}

func (r *fakeRelay) openLaneOf(ctx context.Context, v *visit, express bool) error {
	node, _ := v.Peer()
	stream, err := v.OpenLane(ctx, tunnel.Join{Ingress: r.id.String(), Node: node.String(), Express: express})
	if err != nil {
		return err
	}
	exporter, err := v.LaneExporter(stream)
	if err != nil {
		return err
	}
	return r.own.Join(ctx, stream, bundle.LaneInfo{
		Carrier: string(v.Link().Carrier()), Local: r.id.String(), Peer: node.String(), Exporter: exporter, Express: express,
	})
}

func (r *fakeRelay) handle(_ context.Context, s *tunnel.Session, typ string, body json.RawMessage) (any, error) {
	switch typ {
	case tunnel.TypeHeartbeat:
		var h tunnel.Heartbeat
		err := json.Unmarshal(body, &h)
		select {
		case r.beats <- h:
		default:
		}
		return nil, err
	case tunnel.TypeEnded: // all of them: who stops does not wait
		return tunnel.EndsTaken{}, nil
	case tunnel.TypeConfig:
		var c tunnel.NodeConfig
		if err := json.Unmarshal(body, &c); err != nil {
			return nil, err
		}
		r.mu.Lock()
		hook := r.config
		r.mu.Unlock()
		if hook == nil {
			return nil, nil
		}
		return nil, hook(c)
	case tunnel.TypeEnrol:
		var req tunnel.Enrol
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		return r.answerEnrol(s, req)
	case tunnel.TypeRenewCert:
		var req tunnel.RenewCert
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		return r.answerRenew(s, req)
	}
	return nil, tunnel.Errorf("message-unknown", "relay", "", "%q", typ)
}

// sign issues a certificate to whoever proved to hold the CSR's key.
func (r *fakeRelay) sign(s *tunnel.Session, id certs.Identity, csr, proof []byte) ([][]byte, error) {
	pub, err := certs.CheckCSR(csr)
	if err != nil {
		return nil, err
	}
	exporter, err := s.EnrolExporter()
	if err != nil {
		return nil, err
	}
	if err := certs.CheckProof(pub, exporter, proof); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, csr)
	_, chain := r.issue(id, pub, r.life)
	return chain, nil
}

func (r *fakeRelay) answerEnrol(s *tunnel.Session, req tunnel.Enrol) (any, error) {
	r.mu.Lock()
	hook, counter, relays := r.enrol, r.counter, r.relays
	r.mu.Unlock()
	if hook != nil {
		if err := hook(req); err != nil {
			return nil, err
		}
	}
	id := r.node(req.Name)
	switch req.Kind {
	case tunnel.EnrolNode:
		if !req.Secret.Equal(r.secret) {
			return nil, tunnel.Errorf("key-refused", "registration", "ask for the key", "the authentication key is not one of this relay's")
		}
	case tunnel.EnrolReturn:
		var err error
		if id, err = certs.ParseIdentity(req.Identity); err != nil {
			return nil, err
		}
	}
	chain, err := r.sign(s, id, req.CSR, req.Proof)
	if err != nil {
		return nil, err
	}
	return &tunnel.Enrolled{
		Identity: id.String(), Chain: chain, Roots: [][]byte{r.ca.Certificate().Raw}, Host: "relay.example", Ports: r.ports(), Counter: counter, Relays: relays,
	}, nil
}

func (r *fakeRelay) answerRenew(s *tunnel.Session, req tunnel.RenewCert) (any, error) {
	r.mu.Lock()
	hook := r.renew
	r.mu.Unlock()
	if hook != nil {
		if err := hook(req); err != nil {
			return nil, err
		}
	}
	id, _ := s.Peer()
	chain, err := r.sign(s, id, req.CSR, req.Proof)
	if err != nil {
		return nil, err
	}
	return &tunnel.RenewedCert{Chain: chain, Roots: [][]byte{r.ca.Certificate().Raw}, Counter: req.Counter}, nil
}

func (r *fakeRelay) node(name string) certs.Identity {
	return certs.Identity{TrustDomain: r.ca.TrustDomain(), Role: certs.RoleNode, Tenant: "default", Gateway: "corp", Name: name}
}

func (r *fakeRelay) job(name string) certs.Identity {
	return certs.Identity{TrustDomain: r.ca.TrustDomain(), Role: certs.RoleJob, Tenant: "default", Name: name}
}

// key is the gateway's authentication key.
func (r *fakeRelay) key() string {
	return certs.Key{GatewayID: "00112233445566778899aabbccddeeff", Secret: r.secret, Pin: r.ca.Pin()}.Encode()
}

// grant makes a grant for the relay's own ingress; change may spoil it.
func (r *fakeRelay) grant(node certs.Identity, store string, change func(*grant.Grant)) string {
	g := grant.Grant{
		ID: uuid.NewString(), Tenant: node.Tenant, Gateway: node.Gateway, Node: node.String(), Store: store,
		Job: "nightly", Run: "run-1", Ingress: r.id.String(), Expires: r.now().Add(50 * time.Second),
	}
	if change != nil {
		change(&g)
	}
	token, err := r.signer.Sign(g, r.now())
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// open opens a stream over the relay's own bundle.
func (r *fakeRelay) open(ctx context.Context, node certs.Identity, store string, change func(*grant.Grant)) (*bundle.Stream, error) {
	return r.own.Open(ctx, bundle.Request{UUID: uuid.New(), Grant: r.grant(node, store, change)})
}

// set changes what the relay does.
func (r *fakeRelay) set(change func(*fakeRelay)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// next waits for the next session of a node with a role.
func (r *fakeRelay) next(role string) *visit {
	r.t.Helper()
	for {
		select {
		case v := <-r.visits:
			if v.role == role {
				return v
			}
		case <-time.After(20 * time.Second):
			r.t.Fatalf("no %s session", role)
		}
	}
}

// both gives the next sessions of both roles, in whatever order they come up.
func (r *fakeRelay) both() (control, bulk *visit) {
	r.t.Helper()
	for late := time.After(time.Minute); control == nil || bulk == nil; {
		select {
		case v := <-r.visits:
			if v.role == tunnel.RoleControl {
				control = v
			} else {
				bulk = v
			}
		case <-late:
			r.t.Fatal("not both sessions came up")
		}
	}
	return control, bulk
}

func portOf(addr net.Addr) int {
	_, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		panic(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		panic(err)
	}
	return n
}

// clientTLS is a client's end of a lane.
func (r *fakeRelay) clientTLS(job string, node certs.Identity) *tls.Config {
	key, chain := r.issue(r.job(job), nil, time.Hour)
	certificate, err := (&certs.Saved{Key: key, Chain: chain}).Certificate()
	if err != nil {
		r.t.Fatal(err)
	}
	h := new(certs.Holder)
	h.Set(certificate)
	return certs.ServerConfig(h, func() *certs.Trust { return r.trust }, certs.ServerOptions{
		ALPN: []string{tunnel.ALPNLane}, RequireClient: true,
		Accept: func(id certs.Identity) error {
			if id != node {
				return fmt.Errorf("%s is not %s", id, node)
			}
			return nil
		},
	})
}
