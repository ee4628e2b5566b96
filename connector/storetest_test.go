package connector

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// outcomes are the hops of a test, as "name ok" or "name FAILS".
func outcomes(t *storeTest) string {
	var list []string
	for _, h := range t.hops {
		if h.OK {
			list = append(list, h.Name+" ok")
		} else {
			list = append(list, h.Name+" FAILS")
		}
	}
	return strings.Join(list, ", ")
}

func wantHop(t *testing.T, h tunnel.Hop, ok, advice bool, words ...string) {
	t.Helper()
	if h.OK != ok || (h.Advice != "") != advice {
		t.Errorf("hop %+v", h)
	}
	for _, w := range words {
		if !strings.Contains(h.Detail, w) {
			t.Errorf("hop %s says %q, not %q", h.Name, h.Detail, w)
		}
	}
}

// TestStoreTestHops: each hop that can fail, and what is said of it.
func TestStoreTestHops(t *testing.T) {
	guarded := new(guards)
	guarded.add(config.SpecialProxy, "proxy.corp", 8080)
	nobody := map[string]time.Duration{}
	for _, tc := range []struct {
		name     string
		store    config.Store
		resolver Resolver
		net      *black
		want     string
		words    []string // of the last hop
	}{
		{
			"no name",
			config.Store{Name: "erp", Host: "erp.corp", Port: 1433},
			resolverFunc(func(context.Context, string) ([]netip.Addr, error) { return nil, &net.DNSError{IsNotFound: true} }),
			&black{}, "dns FAILS",
			[]string{`"erp.corp" does not exist`},
		},
		{
			"slow DNS",
			config.Store{Name: "erp", Host: "erp.corp", Port: 1433},
			resolverFunc(func(ctx context.Context, _ string) ([]netip.Addr, error) { <-ctx.Done(); return nil, ctx.Err() }),
			&black{}, "dns FAILS",
			[]string{"within 10s"},
		},
		{
			"the proxy",
			config.Store{Name: "erp", Host: "proxy.corp", Port: 8080},
			answers("10.0.0.1"),
			&black{}, "policy FAILS",
			[]string{"the proxy"},
		},
		{
			"only refused addresses",
			config.Store{Name: "erp", Host: "erp.corp", Port: 1433},
			answers("127.0.0.1", "169.254.169.254"),
			&black{}, "dns ok, policy FAILS",
			[]string{"127.0.0.1 (this node itself)", "metadata service"},
		},
		{
			"nobody answers",
			config.Store{Name: "erp", Host: "erp.corp", Port: 1433},
			answers("10.0.0.1", "10.0.0.2"),
			&black{}, "dns ok, policy ok, tcp FAILS",
			[]string{"10.0.0.1:1433 did not answer", "10.0.0.2:1433 did not answer"},
		},
		{
			"refused",
			config.Store{Name: "erp", Host: "10.0.0.1", Port: 1433},
			answers(),
			&black{dead: map[string]time.Duration{"10.0.0.1": 0}}, "dns ok, policy ok, tcp FAILS",
			[]string{"refused the connection"},
		},
		{
			"200 addresses, none alive",
			config.Store{Name: "erp", Host: "erp.corp", Port: 1433},
			answers(many(200)...),
			&black{alive: nobody}, "dns ok, policy ok, tcp FAILS",
			[]string{"12 more", "within 5s"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := &storeTest{dialer: &dialer{resolver: tc.resolver, guards: guarded, connect: tc.net.connect}, st: tc.store, watch: testWatch}
				start := time.Now()
				st.run(t.Context())
				if got := outcomes(st); got != tc.want || st.ok() {
					t.Fatalf("%s, want %s", got, tc.want)
				}
				wantHop(t, st.hops[len(st.hops)-1], false, true, tc.words...)
				if took := time.Since(start); took > testTimeout {
					t.Errorf("took %v", took)
				}
				if tc.net.peak > maxAttempts || len(tc.net.tried) > maxTested {
					t.Errorf("%d at once, %d in all", tc.net.peak, len(tc.net.tried))
				}
			})
		})
	}
}

// TestStoreTestSomeAddresses: one that answers is enough, the others are named.
func TestStoreTestSomeAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &black{alive: map[string]time.Duration{"10.0.0.2": 30 * time.Millisecond, "10.0.0.3": 20 * time.Millisecond}, dead: map[string]time.Duration{"10.0.0.1": 0}}
		st := &storeTest{
			dialer: &dialer{resolver: answers("10.0.0.1", "10.0.0.2", "127.0.0.1", "10.0.0.3"), guards: &guards{}, connect: net.connect},
			st:     config.Store{Name: "erp", Host: "erp.corp", Port: 1433}, watch: testWatch,
		}
		sock := st.dial(t.Context(), []netip.AddrPort{
			netip.MustParseAddrPort("10.0.0.1:1433"), netip.MustParseAddrPort("10.0.0.2:1433"), netip.MustParseAddrPort("10.0.0.3:1433"),
		})
		if sock == nil {
			t.Fatal(outcomes(st))
		}
		wantHop(t, st.hops[0], true, true, "10.0.0.1:1433 refused the connection", "10.0.0.2:1433 in 30.0 ms", "10.0.0.3:1433 in 20.0 ms")
		if st.hops[0].Millis != 20 {
			t.Errorf("%v ms, want those of the first", st.hops[0].Millis)
		}
	})
}

// TestStoreTestPolicyNames: what is refused beside what is allowed is named.
func TestStoreTestPolicyNames(t *testing.T) {
	st := &storeTest{
		dialer: &dialer{
			resolver: answers("10.0.0.1", "127.0.0.1"), guards: &guards{},
			connect: (&black{dead: map[string]time.Duration{"10.0.0.1": 0}}).connect,
		},
		st: config.Store{Name: "erp", Host: "erp.corp", Port: 1433}, watch: testWatch,
	}
	st.run(t.Context())
	wantHop(t, st.hops[1], true, false, "allowed: 10.0.0.1:1433", "refused: 127.0.0.1 (this node itself)")
}

// TestStoreTestListens: what stores do with a connection that says nothing. Real
// sockets: a reset is no end.
func TestStoreTestListens(t *testing.T) {
	const secret = "220 canary.corp.example ESMTP\r\n"
	for _, tc := range []struct {
		name  string
		store func(net.Conn)
		watch time.Duration
		ok    bool
		words string
	}{
		{"silent", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, 10 * time.Millisecond, true, "waits for its client"},
		{"speaks first", func(c net.Conn) { _, _ = io.WriteString(c, secret); _, _ = io.Copy(io.Discard, c) }, time.Minute, true, "speaks first"},
		{"closes", func(net.Conn) {}, time.Minute, false, "closes it at once"},
		{"resets", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, time.Minute, false, "resets it at once"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln, port := tcp(t, "127.0.0.1:0")
			end, connected := make(chan error, 1), make(chan struct{})
			go func() {
				conn, err := ln.Accept()
				if err == nil {
					<-connected // a reset that comes before is one of the connect
					tc.store(conn)
					err = conn.Close()
				}
				end <- err
			}()
			d := &dialer{guards: &guards{}}
			d.connect = func(ctx context.Context, st config.Store, to netip.AddrPort) (bundle.Socket, error) {
				defer close(connected)
				return d.connectTCP(ctx, st, to)
			}
			st := &storeTest{dialer: d, st: local("127.0.0.1", port), watch: tc.watch}
			st.run(t.Context())
			if got, want := outcomes(st), "dns ok, policy ok, tcp ok, store "; !strings.HasPrefix(got, want) {
				t.Fatalf("%s", got)
			}
			wantHop(t, st.hops[3], tc.ok, !tc.ok, tc.words)
			for _, h := range st.hops {
				if strings.Contains(h.Detail+h.Advice, "canary") {
					t.Errorf("hop %s repeats what the store said: %+v", h.Name, h)
				}
			}
			if err := <-end; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStoreTestEndsWell: the store reads an end, not a reset, of a test that went
// well.
func TestStoreTestEndsWell(t *testing.T) {
	ln, port := tcp(t, "127.0.0.1:0")
	end := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		end <- err
	}()
	st := &storeTest{dialer: &dialer{guards: &guards{}}, st: local("127.0.0.1", port), watch: 10 * time.Millisecond}
	st.run(t.Context())
	if err := <-end; err != io.EOF {
		t.Errorf("the store read %v", err)
	}
	if !st.ok() {
		t.Error(outcomes(st))
	}
}

// TestStoreTestsAreBounded: so many at once, and so many one after the other.
func TestStoreTestsAreBounded(t *testing.T) {
	var b tests
	now := time.Now()
	var leave []func()
	for range testsAtOnce {
		l, ok := b.enter(now)
		if !ok {
			t.Fatal("refused")
		}
		leave = append(leave, l)
	}
	if _, ok := b.enter(now); ok {
		t.Error("too many at once")
	}
	for _, l := range leave {
		l()
	}
	got := testsAtOnce
	for range 100 {
		if l, ok := b.enter(now); ok {
			got++
			l()
		}
	}
	if got != testBurst {
		t.Errorf("%d one after the other, want %d", got, testBurst)
	}
	now = now.Add(testEvery)
	if l, ok := b.enter(now); !ok {
		t.Error("refused after a second")
	} else {
		l()
	}
	if _, ok := b.enter(now); ok {
		t.Error("two after a second")
	}
}

// TestStoreTestOverSession: the relay's question, and the node's last word.
func TestStoreTestOverSession(t *testing.T) {
	r := startRelay(t, relayOptions{})
	ln := echo(t)
	start(t, r, portOf(ln.Addr()), config.CarrierTLS)
	control := r.next(tunnel.RoleControl)
	for store, want := range map[string]string{"echo": "dns policy tcp store", "refused": "dns policy"} {
		var answer tunnel.StoreTested
		if err := control.Call(t.Context(), tunnel.TypeStoreTest, tunnel.StoreTest{Store: store}, &answer); err != nil {
			t.Fatalf("%s: %v", store, err)
		}
		var names []string
		for _, h := range answer.Hops {
			names = append(names, h.Name)
		}
		if d := cmp.Diff(want, strings.Join(names, " ")); d != "" {
			t.Errorf("%s: %s", store, d)
		}
	}
	err := control.Call(t.Context(), tunnel.TypeStoreTest, tunnel.StoreTest{Store: "absent"}, nil)
	wantSpoken(t, err, "store-unknown", "node", `"absent"`)
	for range 2 * testBurst {
		if err = control.Call(t.Context(), tunnel.TypeStoreTest, tunnel.StoreTest{Store: "refused"}, nil); err != nil {
			break
		}
	}
	wantSpoken(t, err, "node-busy", "node", "tests stores already")
}
