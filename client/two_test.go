package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// twin starts another relay of the same instance.
func (r *testRelay) twin() *testRelay {
	r.t.Helper()
	two := &testRelay{
		t: r.t, ca: r.ca, trust: r.trust, token: r.token, node: r.node, nodeID: r.nodeID, nodes: r.nodes, life: time.Hour,
		answering: r.answering, grantNode: r.grantNode, tokens: make(map[string]bool), sessions: make(map[*tunnel.Session]string),
	}
	two.holder = identityOf(r.t, r.ca, certs.Identity{TrustDomain: testDomain, Role: certs.RoleRelay, Name: "relay-two"}, time.Hour)
	two.listen()
	return two
}

// stall is a gate that connections' reads pass.
type stall struct {
	mu   sync.Mutex
	open chan struct{} // closed while reads may go on; guarded by mu
}

func newStall() *stall {
	s := &stall{open: make(chan struct{})}
	close(s.open)
	return s
}

// shut has reads wait until the function is called.
func (s *stall) shut() (reopen func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = make(chan struct{})
	return sync.OnceFunc(func() { close(s.open) })
}

// stalled is a connection behind the gate.
type stalled struct {
	net.Conn
	at *stall
}

func (c stalled) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.at.mu.Lock()
	open := c.at.open
	c.at.mu.Unlock()
	<-open
	return n, err
}

// startTwo starts a client with sessions to both relays.
func startTwo(t *testing.T) (one, two *testRelay, tc *testClient) {
	t.Helper()
	one = startRelay(t, echoStore(t))
	two = one.twin()
	tc = startClient(t, one, func(c *Config) { c.Relay = one.addr + "," + two.addr })
	until(t, "sessions to both", func() bool { return tc.sessions.has(0) && tc.sessions.has(1) })
	return one, two, tc
}

func (r *testRelay) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.grants)
}

// A grant is asked of one relay, and of the other where the first has no node; that
// one is asked first from then on. What a relay refuses for good is refused.
func TestGrantFallsThrough(t *testing.T) {
	for _, tc := range []struct {
		name     string
		one, two string // what they refuse with
		via      int
		want     string // the error
		asked    [2]int
	}{
		{"the first has it", "", "", 0, "", [2]int{1, 0}},
		{"it is elsewhere", "node-elsewhere", "", 1, "", [2]int{1, 1}},
		{"the first drains", "relay-draining", "", 1, "", [2]int{1, 1}},
		{"neither has it", "node-elsewhere", "no-node-online", 0, "no-node-online", [2]int{1, 1}},
		{"not allowed", "job-not-allowed", "", 0, "job-not-allowed", [2]int{1, 0}},
		{"not allowed there", "no-node-online", "job-not-allowed", 0, "job-not-allowed", [2]int{1, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			one, two, c := startTwo(t)
			one.change(func() { one.refuse = tc.one })
			two.change(func() { two.refuse = tc.two })
			g, err := c.grant(t.Context(), testTarget, "", 0)
			if codeOf(err) != tc.want || err == nil && g.via != tc.via {
				t.Fatalf("%+v, %v", g, err)
			}
			if got := [2]int{one.asked(), two.asked()}; got != tc.asked {
				t.Errorf("asked %v times, want %v", got, tc.asked)
			}
			if err != nil {
				return
			}
			if _, err := c.grant(t.Context(), testTarget, "", 0); err != nil {
				t.Fatal(err)
			}
			tc.asked[tc.via]++
			if got := [2]int{one.asked(), two.asked()}; got != tc.asked {
				t.Errorf("then asked %v times, want %v", got, tc.asked)
			}
		})
	}
}

// A relay that stands still does not hold up a grant: the other one is asked as soon
// as the first does not answer a ping either. One that only takes its time is waited
// for.
func TestGrantOfASilentRelay(t *testing.T) {
	one, two, c := startTwo(t)
	defer one.stall.shut()()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // before its session is dead
	defer cancel()
	g, err := c.grant(ctx, testTarget, "", 0)
	if err != nil || g.via != 1 || two.asked() != 1 {
		t.Errorf("%+v, %v; the second was asked %d times", g, err, two.asked())
	}
}

func TestGrantOfASlowRelay(t *testing.T) {
	one, two, c := startTwo(t)
	wait := make(chan struct{})
	one.change(func() { one.pause = wait })
	timer := time.AfterFunc(3*silenceLeast, func() { close(wait) })
	defer timer.Stop()
	g, err := c.grant(t.Context(), testTarget, "", 0)
	if err != nil || g.via != 0 || two.asked() != 0 {
		t.Errorf("%+v, %v; the second was asked %d times", g, err, two.asked())
	}
}

// The first relay that enrols is enough: one that is silent is not waited for, one
// that is not there costs no time.
func TestEnrolmentRace(t *testing.T) {
	silent := func(t *testing.T) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln.Addr().String()
	}
	away := func(t *testing.T) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	for name, first := range map[string]func(*testing.T) string{"silent": silent, "away": away} {
		t.Run(name, func(t *testing.T) {
			r := startRelay(t, echoStore(t))
			tc := startClient(t, r, func(c *Config) { c.Relay = first(t) + "," + r.addr })
			select {
			case <-tc.ready:
			case <-tc.done:
				t.Fatal(tc.ended())
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.enrolled != 1 {
				t.Errorf("enrolled %d times", r.enrolled)
			}
		})
	}
}

// Where none enrols, what may pass is worth another attempt, whatever the others say.
func TestEnrolmentRefusedByAll(t *testing.T) {
	refused := tunnel.Errorf("token-invalid", "registration", "", "no")
	passing := tunnel.Errorf("state-unavailable", "relay", "", "later")
	gone := errors.New("gone")
	for _, tc := range []struct {
		failed []error
		want   error
	}{
		{[]error{refused}, refused}, {[]error{refused, passing}, passing}, {[]error{gone, refused}, gone}, {[]error{refused, gone}, gone},
	} {
		if got := worst(tc.failed); !errors.Is(got, tc.want) {
			t.Errorf("of %v: %v", tc.failed, got)
		}
	}
	r := startRelay(t, echoStore(t))
	two := r.twin()
	for _, relay := range []*testRelay{r, two} {
		relay.change(func() { relay.revoked = true })
	}
	tc := startClient(t, r, func(c *Config) { c.Relay = r.addr + "," + two.addr })
	if err := tc.ended(); codeOf(err) != "token-invalid" {
		t.Errorf("got %v", err)
	}
}
