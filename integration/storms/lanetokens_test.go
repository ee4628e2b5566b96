//go:build linux

package storms

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// noToken is a lane token that nobody was given.
const noToken = "00112233445566778899aabbccddeeff"

// TestLaneTokens has clients with good certificates use tokens and bundles that are not theirs: each lane is refused for
// a reason that has a name, and counted; those who may have lanes go on.
func TestLaneTokens(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "tls", limits{})
	second, err := p.relay.CreateJob(ctx, "second", corp+"/"+store)
	if err != nil {
		t.Fatal(err)
	}
	m := newMeter(ctx, t, p)
	owner := newClient(ctx, t, p)
	token, err := certs.ParseToken(second)
	if err != nil {
		t.Fatal(err)
	}
	stranger := enrol(ctx, t, p, token.Pin, tunnel.Enrol{Kind: tunnel.EnrolJob, JobID: token.JobID, Secret: token.Secret})
	mine := owner.session(ctx, t, tunnel.TLS, tunnel.SessionConfig{Hello: tunnel.Hello{Role: tunnel.RoleClient}})
	theirs := stranger.session(ctx, t, tunnel.TLS, tunnel.SessionConfig{Hello: tunnel.Hello{Role: tunnel.RoleClient}})
	good := owner.lane(ctx, t, mine)
	_ = write(good, good.open(1))
	good.opens(t)

	foreignTokens(ctx, t, p, owner, stranger, mine, theirs)
	m.grew(ctx, t, `ebbgate_relay_client_lanes_total{reason="lane-token-invalid"}`, 3)
	m.grew(ctx, t, `ebbgate_relay_connections_total{kind="lane-token-invalid"}`, 4)
	foreignBundles(ctx, t, owner, stranger, mine, theirs)
	if out := p.connector.Output(); !strings.Contains(out, "the HMAC of") {
		t.Errorf("the connector does not say why lanes were refused:\n%s", out)
	}

	_ = write(good, data(1, 0, 5))
	if typ, body := good.next(t); typ != 5 && typ != 6 {
		t.Errorf("the lane that was there before: a frame of type %d: %q", typ, body)
	}
	p.dial(ctx, t)
	p.talk(ctx, t)
}

// tokens asks for a grant with so many.
func tokens(ctx context.Context, t *testing.T, s *tunnel.Session, n int) tunnel.Granted {
	t.Helper()
	var granted tunnel.Granted
	if err := s.Call(ctx, tunnel.TypeGrant, tunnel.GrantRequest{Gateway: corp, Store: store, Run: "tokens", Lanes: n}, &granted); err != nil {
		t.Fatal(err)
	}
	if len(granted.LaneTokens) != n {
		t.Fatalf("%d tokens, want %d", len(granted.LaneTokens), n)
	}
	return granted
}

// foreignTokens uses tokens that were used, are another's, or never were, on sessions and on connections of their own.
func foreignTokens(ctx context.Context, t *testing.T, p *path, owner, stranger *rogue, mine, theirs *tunnel.Session) {
	t.Helper()
	granted := tokens(ctx, t, mine, 2)
	used, other := granted.LaneTokens[0], granted.LaneTokens[1]
	refused := func(what string, r *rogue, s *tunnel.Session, token string) {
		t.Helper()
		if conn, err := r.pipe(ctx, s, token, granted.Node); err == nil {
			t.Errorf("%s: the lane came about", what)
			_ = conn.Close()
		}
	}
	conn, err := owner.pipe(ctx, mine, used, granted.Node)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	refused("a token that was used", owner, mine, used)
	refused("a token of nobody", owner, mine, noToken)
	refused("another client's token", stranger, theirs, other)
	conn, err = owner.pipe(ctx, mine, other, granted.Node)
	if err != nil {
		t.Errorf("a token that a stranger has tried: %v", err)
	} else {
		_ = conn.Close()
	}
	for what, token := range map[string]string{"a token that was used": used, "a token of nobody": noToken} {
		conn, err := net.Dial("tcp", p.relay.TLS)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, "EBBLANE "+token+"b\n")
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Errorf("%s on a client's own connection: the relay keeps it", what)
		}
		_ = conn.Close()
		conn, err = net.Dial("tcp", p.relay.TLS)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		node := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "relay.invalid", NextProtos: []string{tunnel.ALPNLane, token}})
		if err := node.HandshakeContext(ctx); err == nil || isTimeout(err) {
			t.Errorf("%s on a node's own connection: %v", what, err)
		}
		_ = conn.Close()
	}
}

// foreignBundles joins lanes to bundles with a secret that is not theirs, or that are another client's.
func foreignBundles(ctx context.Context, t *testing.T, owner, stranger *rogue, mine, theirs *tunnel.Session) {
	t.Helper()
	var bundle, secret, wrong [16]byte
	for _, b := range [][]byte{bundle[:], secret[:], wrong[:]} {
		_, _ = rand.Read(b)
	}
	const goAway, unknown, refused = 13, 44, 45
	for _, c := range []struct {
		what    string
		client  *rogue
		session *tunnel.Session
		secret  [16]byte
		tell    bool
		code    uint16 // of the GOAWAY; 0: a HELLO
	}{
		{"the first lane", owner, mine, secret, true, 0},
		{"a lane with another secret", owner, mine, wrong, false, refused},
		{"a lane that tells another secret", owner, mine, wrong, true, refused},
		{"another client's lane", stranger, theirs, secret, false, unknown},
		{"the second lane", owner, mine, secret, false, 0},
	} {
		granted := tokens(ctx, t, c.session, 1)
		conn, err := c.client.pipe(ctx, c.session, granted.LaneTokens[0], granted.Node)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		exporter, err := conn.Exporter()
		if err != nil {
			t.Fatal(err)
		}
		_ = write(conn, hello(1, bundle, c.secret[:], exporter, c.tell))
		typ, body := (&lane{Conn: conn}).next(t)
		if c.code == 0 && typ != 1 || c.code != 0 && (typ != goAway || binary.BigEndian.Uint16(body) != c.code) {
			t.Errorf("%s: a frame of type %d: %v", c.what, typ, body)
		}
	}
}

// pipe opens a lane with a token as far as its TLS.
func (r *rogue) pipe(ctx context.Context, s *tunnel.Session, token, node string) (*tunnel.LaneConn, error) {
	stream, err := s.OpenLane(ctx, tunnel.Join{Token: token, Ingress: r.id.String(), Node: node, Express: true})
	if err != nil {
		return nil, err
	}
	return tunnel.ServeLane(ctx, stream, certs.ServerConfig(&r.held, r.believe, certs.ServerOptions{ALPN: []string{tunnel.ALPNLane}, RequireClient: true}))
}
