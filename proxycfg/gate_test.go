package proxycfg

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// gateCred is a credential as a password file gives it.
func gateCred(password string, version int) *credential {
	return &credential{user: "u", password: newSecret(password), version: version}
}

// mustPass enters a gate that must let the dial through at once.
func mustPass(t *testing.T, g *gate, c *credential) pass {
	t.Helper()
	p, s, wait := g.try(c)
	if s != nil || wait != nil {
		t.Fatalf("stop %+v, wait %v", s, wait != nil)
	}
	return p
}

func mustWait(t *testing.T, g *gate, c *credential) {
	t.Helper()
	if p, s, wait := g.try(c); wait == nil {
		t.Fatalf("went through: %+v %+v", p, s)
	}
}

func mustStop(t *testing.T, g *gate, c *credential) *stop {
	t.Helper()
	_, s, wait := g.try(c)
	if s == nil || wait != nil {
		t.Fatalf("not stopped: wait %v", wait != nil)
	}
	return s
}

// A proof ages: after a minute one dial goes alone again, so that a password
// that was changed meanwhile costs one attempt.
func TestProofAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		c := gateCred("a", 1)
		first := mustPass(t, &g, c)
		if !first.alone || !first.first || !first.recall || first.scheme != "" {
			t.Errorf("%+v", first)
		}
		mustWait(t, &g, c)
		g.leave(first, verdict{outcome: accepted, scheme: SchemeNTLM})
		for range 3 {
			if p := mustPass(t, &g, c); p.alone || p.scheme != SchemeNTLM {
				t.Errorf("%+v", p)
			}
		}
		time.Sleep(proofAge - time.Nanosecond)
		mustPass(t, &g, c)
		time.Sleep(time.Nanosecond)
		again := mustPass(t, &g, c)
		if !again.alone || again.first || again.recall || again.scheme != SchemeNTLM {
			t.Errorf("%+v", again)
		}
		mustWait(t, &g, c)
		g.leave(again, verdict{outcome: refused, refusal: refusal{Line: "x"}})
		if s := mustStop(t, &g, c); s.refusal.Line != "x" {
			t.Errorf("%+v", s)
		}
	})
}

// Attempts without an answer are spaced until the credential was accepted.
func TestUnansweredAreSpaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		c := gateCred("a", 1)
		var waits []time.Duration
		for range 7 {
			g.leave(mustPass(t, &g, c), verdict{outcome: unanswered})
			s := mustStop(t, &g, c)
			waits = append(waits, s.wait)
			time.Sleep(s.wait - time.Nanosecond)
			mustStop(t, &g, c)
			time.Sleep(time.Nanosecond)
		}
		want := []time.Duration{1, 2, 4, 8, 10, 10, 10}
		for i := range want {
			want[i] *= time.Minute
		}
		if diff := cmp.Diff(want, waits); diff != "" {
			t.Error(diff)
		}
		// Nothing was sent: there is nothing to space.
		g.leave(mustPass(t, &g, c), verdict{outcome: unsent})
		g.leave(mustPass(t, &g, c), verdict{outcome: accepted, scheme: SchemeBasic})
		// It is known to be good: an outage does not delay it.
		for range 3 {
			g.leave(mustPass(t, &g, c), verdict{outcome: unanswered})
		}
		if p := mustPass(t, &g, c); !p.alone {
			t.Error("an unanswered attempt does not end the proof")
		}
	})
}

func TestUnansweredStartsAnewWithAnotherPassword(t *testing.T) {
	var g gate
	g.leave(mustPass(t, &g, gateCred("a", 1)), verdict{outcome: unanswered})
	mustStop(t, &g, gateCred("a", 1))
	mustPass(t, &g, gateCred("b", 2))
}

// A credential that was read before another dial read a newer one is read again.
func TestStaleCredential(t *testing.T) {
	var g gate
	older, newer := gateCred("a", 1), gateCred("b", 2)
	held := mustPass(t, &g, older)
	mustWait(t, &g, newer) // the older one's outcome comes first
	g.leave(held, verdict{outcome: refused})
	p := mustPass(t, &g, newer)
	mustWait(t, &g, older)
	g.leave(p, verdict{outcome: accepted, scheme: SchemeBasic})
	mustWait(t, &g, older)
	// What becomes of a dial with a credential of before says nothing now.
	g.leave(pass{cred: older}, verdict{outcome: refused})
	mustPass(t, &g, newer)
}

// A dial that does not go alone answers no 407, and one whose credential was
// refused while it was under way makes no attempt.
func TestNoAttemptOutOfTurn(t *testing.T) {
	for _, tc := range []struct {
		name string
		pass func(*gate, *credential) pass
	}{
		{"not alone", func(g *gate, c *credential) pass {
			g.leave(mustPass(t, g, c), verdict{outcome: notAsked})
			return mustPass(t, g, c)
		}},
		{"refused meanwhile", func(g *gate, c *credential) pass {
			g.leave(mustPass(t, g, c), verdict{outcome: accepted, scheme: SchemeBasic})
			p := mustPass(t, g, c)
			g.leave(mustPass(t, g, c), verdict{outcome: refused})
			return p
		}},
		{"changed meanwhile", func(g *gate, c *credential) pass {
			g.leave(mustPass(t, g, c), verdict{outcome: accepted, scheme: SchemeBasic})
			p := mustPass(t, g, c)
			mustPass(t, g, gateCred("new", 2))
			return p
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var shown atomic.Bool
			s := &pipes{serve: func(c net.Conn) {
				req, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				shown.Store(req.Header.Get("Proxy-Authorization") != "")
				_, _ = io.WriteString(c, "HTTP/1.1 407 A\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
			}}
			u := pipeUpstream(s.reach())
			p := tc.pass(&u.gate, u.source.last)
			conn, v, err := u.attempt(t.Context(), connectTo(target), p)
			if conn != nil || err != nil || v.outcome != asked {
				t.Errorf("%v, %+v, %v", conn, v, err)
			}
			s.wg.Wait()
			if shown.Load() {
				t.Error("the password was shown")
			}
		})
	}
}

// pipes is a reach whose connections are pipes to serve.
type pipes struct {
	serve func(net.Conn)
	wg    sync.WaitGroup
}

func (s *pipes) reach() reach {
	return reach{dial: func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		s.wg.Go(func() { s.serve(b); _ = b.Close() })
		return a, nil
	}}
}

func pipeUpstream(r reach) *upstream {
	return &upstream{
		url: &url.URL{Scheme: "http", Host: "192.0.2.1:80"}, host: "192.0.2.1", port: "80", addr: "192.0.2.1:80",
		source:  &source{last: gateCred("canary", 1), user: "u"},
		schemes: strongestFirst, reach: r, memory: newMemory(""), log: slog.New(slog.DiscardHandler),
		handshake: make(chan struct{}, 1),
	}
}

// A proxy that never answers holds a dial for 30 s, however it is silent.
func TestTotalDeadline(t *testing.T) {
	for _, tc := range []struct {
		name  string
		serve func(net.Conn)
		took  time.Duration
		code  string
	}{
		{"nothing", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, exchangeTimeout, CodeProxyTimeout},
		{"drop by drop", func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(c, "X: y\r\n"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, exchangeTimeout, CodeProxyTimeout},
		{"1xx for ever", func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, (maxInformational - 1) * time.Second, CodeProxyNotHTTP},
		{"after the attempt", func(c net.Conn) {
			br := bufio.NewReader(c)
			req, err := http.ReadRequest(br)
			if err == nil && req.Header.Get("Proxy-Authorization") == "" {
				_, _ = io.WriteString(c, "HTTP/1.1 407 A\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
			}
			_, _ = io.Copy(io.Discard, br)
		}, exchangeTimeout + outcomeGrace, CodeProxyTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &pipes{serve: tc.serve}
				u := pipeUpstream(s.reach())
				began := time.Now()
				_, err := u.dial(t.Context(), connectTo(target))
				wantCode(t, err, tc.code)
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				s.wg.Wait()
			})
		})
	}
}

// Dials that wait for one that goes alone end with their own context or after
// 30 s, and what is under way at the proxy ends with its caller at once.
func TestWaitersGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		s := &pipes{serve: func(c net.Conn) { dials.Add(1); _, _ = io.Copy(io.Discard, c) }}
		u := pipeUpstream(s.reach())
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			_, err := u.dial(ctx, connectTo(target))
			wantCode(t, err, CodeCanceled)
		})
		synctest.Wait()
		began := time.Now()
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		_, err := u.dial(short, connectTo(target))
		e := wantCode(t, err, CodeProxyTimeout)
		if time.Since(began) != time.Second || !e.Timeout() || dials.Load() != 1 {
			t.Errorf("after %v, %d dials: %v", time.Since(began), dials.Load(), e)
		}
		began = time.Now()
		cancel()
		wg.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("cancel took %v", took)
		}
		s.wg.Wait()
	})
}

// blackhole is what a dial to an address that drops packets does.
func blackhole(ctx context.Context) error {
	<-ctx.Done()
	return &net.OpError{Op: "dial", Err: timeoutError{}}
}

type timeoutError struct{}

func (timeoutError) Error() string { return "i/o timeout" }
func (timeoutError) Timeout() bool { return true }

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestAddresses(t *testing.T) {
	refusal := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	notFound := &net.DNSError{Err: "no such host", Name: "proxy.corp", IsNotFound: true}
	for _, tc := range []struct {
		name    string
		found   []netip.Addr
		lookup  error
		answers map[string]string // good, refused, unreachable, slow (good after 400 ms); none: dropped
		conn    string
		took    time.Duration
		order   []string
		code    string // through a proxy
		direct  string
		message string
	}{
		{
			name: "the first", found: addrs("192.0.2.1", "192.0.2.2"), answers: map[string]string{"192.0.2.1": "good"},
			conn: "192.0.2.1", order: []string{"192.0.2.1"},
		},
		{
			name: "refused, then good", found: addrs("192.0.2.1", "192.0.2.2"),
			answers: map[string]string{"192.0.2.1": "refused", "192.0.2.2": "good"},
			conn:    "192.0.2.2", order: []string{"192.0.2.1", "192.0.2.2"},
		},
		{
			name: "dropped, then good", found: addrs("192.0.2.1", "192.0.2.2"), answers: map[string]string{"192.0.2.2": "good"},
			conn: "192.0.2.2", took: connectStagger, order: []string{"192.0.2.1", "192.0.2.2"},
		},
		{
			name: "slow, and the second is dropped", found: addrs("192.0.2.1", "192.0.2.2"), answers: map[string]string{"192.0.2.1": "slow"},
			conn: "192.0.2.1", took: 400 * time.Millisecond, order: []string{"192.0.2.1", "192.0.2.2"},
		},
		{
			name: "families alternate", found: addrs("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"),
			answers: map[string]string{"2001:db8::1": "unreachable", "192.0.2.1": "refused", "2001:db8::2": "refused", "192.0.2.2": "good"},
			conn:    "192.0.2.2", order: []string{"2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"},
		},
		{
			name: "all refuse", found: addrs("192.0.2.1", "192.0.2.2"),
			answers: map[string]string{"192.0.2.1": "refused", "192.0.2.2": "refused"},
			order:   []string{"192.0.2.1", "192.0.2.2"}, code: CodeProxyRefused, direct: CodeConnectionRefused,
			message: "192.0.2.1:8080: connection refused; 192.0.2.2:8080: connection refused",
		},
		{
			name: "all dropped", found: addrs("192.0.2.1", "192.0.2.2"), took: connectTimeout,
			order: []string{"192.0.2.1", "192.0.2.2"}, code: CodeProxyDialTimeout, direct: CodeConnectionTimeout,
			message: "192.0.2.1:8080: no answer; 192.0.2.2:8080: no answer",
		},
		{
			name: "unreachable", found: addrs("2001:db8::1"), answers: map[string]string{"2001:db8::1": "unreachable"},
			order: []string{"2001:db8::1"}, code: CodeProxyUnreachable, direct: CodeUnreachable,
			message: "[2001:db8::1]:8080: network is unreachable",
		},
		{name: "no name", lookup: notFound, code: CodeProxyUnresolved, direct: CodeUnresolved, message: "resolve name: no such name"},
		{name: "no addresses", code: CodeProxyUnresolved, direct: CodeUnresolved, message: "resolve name: no such name"},
		{name: "no name server", lookup: &net.DNSError{Err: "i/o timeout", IsTimeout: true}, code: CodeProxyUnresolved, direct: CodeUnresolved, message: "the name server did not answer"},
	} {
		for _, proxied := range []bool{true, false} {
			name := tc.name
			if proxied {
				name += ", proxy"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var mu sync.Mutex
					var order []string
					made := map[string]net.Conn{}
					r := reach{
						lookup: func(_ context.Context, network, host string) ([]netip.Addr, error) {
							if network != "ip" || host != "proxy.corp" {
								t.Errorf("lookup of %s %s", network, host)
							}
							return tc.found, tc.lookup
						},
						dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
							host, _, _ := net.SplitHostPort(addr)
							mu.Lock()
							order = append(order, host)
							mu.Unlock()
							switch tc.answers[host] {
							case "good":
							case "slow":
								time.Sleep(400 * time.Millisecond)
							case "refused":
								return nil, refusal
							case "unreachable":
								return nil, &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
							default:
								return nil, blackhole(ctx)
							}
							a, b := net.Pipe()
							_ = b.Close()
							mu.Lock()
							made[host] = a
							mu.Unlock()
							return a, nil
						},
					}
					began := time.Now()
					conn, err := r.connect(t.Context(), "tcp", "proxy.corp", "8080")
					if took := time.Since(began); took != tc.took {
						t.Errorf("took %v, want %v", took, tc.took)
					}
					if diff := cmp.Diff(tc.order, order); diff != "" {
						t.Error(diff)
					}
					if tc.conn != "" {
						if err != nil || conn != made[tc.conn] {
							t.Errorf("not the connection to %s: %v", tc.conn, err)
						}
						return
					}
					code, hop := tc.direct, "tcp"
					if proxied {
						code = tc.code
					}
					if tc.order == nil {
						hop = "dns"
					}
					e := wantCode(t, errDial(t.Context(), proxied, "proxy.corp:8080", err), code)
					if e.Hop() != hop || !strings.Contains(e.Error(), tc.message) || !strings.Contains(e.Error(), "proxy.corp:8080") {
						t.Errorf("%s: %v", e.Hop(), e)
					}
				})
			})
		}
	}
}

// Both connections of a race that come up: one is closed.
func TestRaceClosesTheLoser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var ends []net.Conn
		r := reach{dial: func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			mu.Lock()
			ends = append(ends, b)
			mu.Unlock()
			time.Sleep(connectStagger + time.Nanosecond)
			return a, nil
		}}
		conn, err := r.race(t.Context(), "tcp", addrs("192.0.2.1", "192.0.2.2", "192.0.2.3"), "1")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		for _, e := range ends {
			if _, err := e.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("a connection is left: %v", err)
			}
		}
		if len(ends) != 2 {
			t.Errorf("%d dials", len(ends))
		}
	})
}

func TestCanceledConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := reach{dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, blackhole(ctx) }}
		u := pipeUpstream(r)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		time.AfterFunc(time.Second, cancel)
		_, err := u.dial(ctx, connectTo(target))
		e := wantCode(t, err, CodeCanceled)
		if !errors.Is(e, context.Canceled) {
			t.Errorf("%v", e)
		}
	})
}
