package client

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// testRelay is a relay with one node in this process: the client's lanes end at
// the node as if they had been spliced.
type testRelay struct {
	t      *testing.T
	ca     *certs.Authority
	trust  *certs.Trust
	holder *certs.Holder
	token  certs.Token
	addr   string
	node   *testNode
	nodeID certs.Identity
	nodes  map[string]*certs.Holder // by name: who may answer
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	splice func(net.Conn) net.Conn // what it does to lanes; nil: what it should
	stall  *stall                  // of its connections

	mu sync.Mutex
	// guarded by mu
	life      time.Duration // of jobs' certificates
	enrolled  int
	resumed   int // answers with tokens for lanes
	revoked   bool
	refuse    string        // the code that grants are refused with
	pause     chan struct{} // before a grant; nil: none
	answering string        // the node that answers lanes
	grantNode string        // the identity in grants
	grants    []tunnel.GrantRequest
	lanes     []string // role of the session and class
	tokens    map[string]bool
	sessions  map[*tunnel.Session]string
}

func identityOf(t *testing.T, ca *certs.Authority, id certs.Identity, life time.Duration) *certs.Holder {
	t.Helper()
	key, err := certs.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(id, key.Public(), time.Now(), life)
	if err != nil {
		t.Fatal(err)
	}
	// A newcomer finds the pinned CA in the chain.
	saved := &certs.Saved{Key: key, Chain: [][]byte{der, ca.Certificate().Raw}}
	cert, err := saved.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	h := &certs.Holder{}
	h.Set(cert)
	return h
}

const testDomain = "0123456789abcdef0123456789abcdef"

// startRelay starts a relay in front of a store.
func startRelay(t *testing.T, store string) *testRelay {
	t.Helper()
	ca, err := certs.NewAuthority(testDomain, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r := &testRelay{
		t: t, ca: ca, life: time.Hour, answering: "one", nodes: make(map[string]*certs.Holder),
		tokens: make(map[string]bool), sessions: make(map[*tunnel.Session]string),
	}
	r.trust = &certs.Trust{TrustDomain: testDomain, Roots: certificates(ca)}
	r.holder = identityOf(t, ca, certs.Identity{TrustDomain: testDomain, Role: certs.RoleRelay, Name: "relay"}, time.Hour)
	r.nodeID = certs.Identity{TrustDomain: testDomain, Role: certs.RoleNode, Tenant: "default", Gateway: "corp", Name: "one"}
	r.grantNode = r.nodeID.String()
	r.nodes["one"] = identityOf(t, ca, r.nodeID, time.Hour)
	other := r.nodeID
	other.Name = "two"
	r.nodes["two"] = identityOf(t, ca, other, time.Hour)
	foreign, err := certs.NewAuthority(testDomain, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.nodes["forged"] = identityOf(t, foreign, r.nodeID, time.Hour)
	r.token = certs.Token{JobID: "00112233445566778899aabbccddeeff", Secret: certs.NewSecret(), Pin: ca.Pin()}
	r.node = &testNode{store: store}
	r.node.Node = bundle.NewNode(bundle.Config{Incarnation: 7, ResumeGrace: time.Minute}, r.node.open)
	r.listen()
	return r
}

// listen serves TCP and UDP on one port.
func (r *testRelay) listen() {
	r.t.Helper()
	config := certs.ServerConfig(r.holder, func() *certs.Trust { return r.trust }, certs.ServerOptions{ALPN: []string{tunnel.ALPN}})
	var ln *net.TCPListener
	var udp net.PacketConn
	for { // until a port is free for both
		var err error
		if ln, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			r.t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp", ln.Addr().String()); err == nil {
			break
		}
		ln.Close()
	}
	quic, err := tunnel.ListenQUIC(udp, config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr, r.stall = ln.Addr().String(), newStall()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.tasks.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r.tasks.Go(func() {
				if link, err := tunnel.ServeTLS(ctx, stalled{conn, r.stall}, config); err == nil {
					r.serve(ctx, link)
				}
			})
		}
	})
	r.tasks.Go(func() {
		for {
			link, err := quic.Accept(ctx)
			if err != nil {
				return
			}
			r.tasks.Go(func() { r.serve(ctx, link) })
		}
	})
	r.t.Cleanup(func() {
		ln.Close()
		cancel()
		r.node.stop()
		r.tasks.Wait()
		quic.Close()
	})
}

func (r *testRelay) serve(ctx context.Context, link tunnel.Link) {
	s := tunnel.NewSession(link, tunnel.SessionConfig{Accept: r.accept, Handle: r.handle, Lane: r.lane})
	hello, err := s.Start(ctx)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.sessions[s] = hello.Role
	r.mu.Unlock()
	_ = s.Run(ctx)
	r.mu.Lock()
	delete(r.sessions, s)
	r.mu.Unlock()
}

func (r *testRelay) accept(_ context.Context, s *tunnel.Session, peer tunnel.Hello) (tunnel.Hello, error) {
	id, ok := s.Peer()
	r.mu.Lock()
	defer r.mu.Unlock()
	if peer.Role != tunnel.RoleEnrol && (!ok || id.Role != certs.RoleJob) {
		return tunnel.Hello{}, tunnel.Errorf("certificate-missing", "relay", "", "no certificate")
	}
	if peer.Role != tunnel.RoleEnrol && r.revoked {
		e := tunnel.Errorf("revoked", "registration", "create the job again", "job %s was revoked", id.Name)
		e.Final = true
		return tunnel.Hello{}, e
	}
	return tunnel.Hello{Role: tunnel.RoleRelay, Relay: "relay"}, nil
}

func (r *testRelay) handle(_ context.Context, s *tunnel.Session, typ string, body json.RawMessage) (any, error) {
	r.mu.Lock()
	pause := r.pause
	r.mu.Unlock()
	if typ == tunnel.TypeGrant && pause != nil {
		<-pause
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch typ {
	case tunnel.TypeEnrol:
		var req tunnel.Enrol
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		return r.enrolLocked(s, req)
	case tunnel.TypeGrant:
		var req tunnel.GrantRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		r.grants = append(r.grants, req)
		if r.refuse != "" {
			return nil, tunnel.Errorf(r.refuse, "gateway", "", "refused")
		}
		answer := tunnel.Granted{Grant: fmt.Sprintf("grant-%d", len(r.grants)), Node: r.grantNode, Store: "erp-sql", Expires: time.Now().Add(time.Minute)}
		for i := range req.Lanes {
			token := fmt.Sprintf("token-%d-%d", len(r.grants), i)
			r.tokens[token] = true
			answer.LaneTokens = append(answer.LaneTokens, token)
		}
		return answer, nil
	case tunnel.TypeLanes:
		var req tunnel.LanesRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		if req.Node != r.nodeID.String() {
			return nil, fmt.Errorf("lanes to %s", req.Node)
		}
		r.resumed++
		answer := tunnel.LaneTokens{}
		for i := range req.Lanes {
			token := fmt.Sprintf("again-%d-%d", r.resumed, i)
			r.tokens[token] = true
			answer.Tokens = append(answer.Tokens, token)
		}
		return answer, nil
	}
	return nil, fmt.Errorf("unexpected %s", typ)
}

func (r *testRelay) enrolLocked(s *tunnel.Session, req tunnel.Enrol) (*tunnel.Enrolled, error) {
	if req.Kind != tunnel.EnrolJob || req.JobID != r.token.JobID || !req.Secret.Equal(r.token.Secret) || r.revoked {
		return nil, tunnel.Errorf("token-invalid", "registration", "has the job been revoked?", "the job token is not valid")
	}
	pub, err := certs.CheckCSR(req.CSR)
	if err != nil {
		return nil, err
	}
	exporter, err := s.EnrolExporter()
	if err != nil {
		return nil, err
	}
	if err := certs.CheckProof(pub, exporter, req.Proof); err != nil {
		return nil, err
	}
	id := certs.Identity{TrustDomain: testDomain, Role: certs.RoleJob, Tenant: "default", Name: "copy"}
	der, err := r.ca.Issue(id, pub, time.Now(), r.life)
	if err != nil {
		return nil, err
	}
	r.enrolled++
	_, port, _ := net.SplitHostPort(r.addr)
	answer := &tunnel.Enrolled{Identity: id.String(), Chain: [][]byte{der, r.ca.Certificate().Raw}, Roots: [][]byte{r.ca.Certificate().Raw}}
	fmt.Sscan(port, &answer.Ports.TLS)
	answer.Ports.QUIC = answer.Ports.TLS
	return answer, nil
}

// lane is the relay's splice and the node behind it.
func (r *testRelay) lane(ctx context.Context, s *tunnel.Session, join tunnel.Join, stream tunnel.Stream) {
	r.mu.Lock()
	valid := r.tokens[join.Token]
	delete(r.tokens, join.Token)
	r.lanes = append(r.lanes, fmt.Sprintf("%s express=%v", r.sessions[s], join.Express))
	holder := r.nodes[r.answering]
	r.mu.Unlock()
	if !valid {
		stream.Close()
		return
	}
	config := certs.ClientConfig(holder, func() *certs.Trust { return r.trust }, func(id certs.Identity) error {
		if id.Role != certs.RoleJob {
			return fmt.Errorf("%s is not a job", id)
		}
		return nil
	}, []string{tunnel.ALPNLane})
	var spliced net.Conn = stream
	if r.splice != nil {
		spliced = r.splice(stream)
	}
	lane, err := tunnel.DialLane(ctx, spliced, config)
	if err != nil {
		return
	}
	exporter, err := lane.Exporter()
	if err != nil {
		lane.Close()
		return
	}
	peer, _ := lane.Peer()
	_ = r.node.Serve(ctx, lane, bundle.LaneInfo{
		Carrier: string(s.Link().Carrier()), Local: r.nodeID.String(), Peer: peer.String(), Exporter: exporter, Express: join.Express,
	})
}

// change changes the relay's behaviour.
func (r *testRelay) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// drop closes all sessions of a role.
func (r *testRelay) drop(role string) {
	r.mu.Lock()
	var list []*tunnel.Session
	for s, have := range r.sessions {
		if have == role {
			list = append(list, s)
		}
	}
	r.mu.Unlock()
	for _, s := range list {
		s.Close("dropped")
	}
}

func certificates(cas ...*certs.Authority) (list []*x509.Certificate) {
	for _, ca := range cas {
		list = append(list, ca.Certificate())
	}
	return list
}

// tokenFile writes a token where a client finds it.
func tokenFile(t *testing.T, token certs.Token) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token.Encode()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
