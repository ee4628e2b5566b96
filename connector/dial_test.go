package connector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

type resolverFunc func(ctx context.Context, host string) ([]netip.Addr, error)

func (f resolverFunc) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	return f(ctx, host)
}

// tcp is a listener on loopback, as a store.
func tcp(t *testing.T, addr string) (*net.TCPListener, int) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.(*net.TCPListener), ln.Addr().(*net.TCPAddr).Port
}

func local(host string, port int) config.Store {
	return config.Store{Name: "erp", Host: host, Port: port, AllowSpecial: []config.Special{config.SpecialLoopback}}
}

func wantError(t *testing.T, err error, code string, words ...string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code() != code {
		t.Fatalf("error %v, want %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("message %q does not say %q", e, w)
		}
	}
	if e.Hop() != "store" || e.Advice() == "" {
		t.Errorf("hop %q, advice %q", e.Hop(), e.Advice())
	}
	return e
}

func TestDialSocketOptions(t *testing.T) {
	ln, port := tcp(t, "127.0.0.1:0")
	d := &dialer{guards: &guards{}}
	sock, err := d.dial(t.Context(), local("127.0.0.1", port))
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	// Nothing but the close itself: linger 0 from birth makes it a reset.
	_ = sock.Close()
	_ = far.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := far.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the store read %v, want a reset", err)
	}
}

// A name that changes its answer between the check and the connect gains
// nothing: it is asked once.
func TestDialRebinding(t *testing.T) {
	_, port := tcp(t, "127.0.0.1:0")
	var asked atomic.Int32
	d := &dialer{
		guards: &guards{}, timeout: time.Second,
		resolver: resolverFunc(func(context.Context, string) ([]netip.Addr, error) {
			if asked.Add(1) == 1 {
				return []netip.Addr{netip.MustParseAddr("203.0.113.1")}, nil // TEST-NET-3: nobody there
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}),
	}
	var at []netip.AddrPort
	d.connect = func(ctx context.Context, st config.Store, to netip.AddrPort) (bundle.Socket, error) {
		at = append(at, to)
		return nil, syscall.ECONNREFUSED
	}
	st := config.Store{Name: "erp", Host: "rebind.example", Port: port}
	if _, err := d.dial(t.Context(), st); err == nil {
		t.Fatal("connected")
	}
	if want := netip.MustParseAddrPort(fmt.Sprintf("203.0.113.1:%d", port)); asked.Load() != 1 || !slices.Equal(at, []netip.AddrPort{want}) {
		t.Errorf("asked %d times, dialled %v", asked.Load(), at)
	}
	// The second dial sees the new answer, and refuses it.
	_, err := d.dial(t.Context(), st)
	wantError(t, err, "address-refused", "127.0.0.1")

	// The socket itself does not connect to what the policy refuses, whoever
	// asks it to.
	if _, err := d.connectTCP(t.Context(), st, netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", port))); !errors.Is(err, errChecked) {
		t.Errorf("the socket went to a refused address: %v", err)
	}
}

func TestDialResolverFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		words string
	}{
		{"nxdomain", &net.DNSError{Err: "no such host", Name: "erp.corp", IsNotFound: true}, `the name "erp.corp" does not exist`},
		{"servfail", &net.DNSError{Err: "server misbehaving", Name: "erp.corp", Server: "10.0.0.53:53", IsTemporary: true}, "server misbehaving"},
		{"timeout", &net.DNSError{Err: "i/o timeout", Name: "erp.corp", IsTimeout: true}, "did not answer"},
		{"other", errors.New("resolver on fire"), "on fire"},
		{"nothing", nil, "does not exist"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &dialer{guards: &guards{}, resolver: resolverFunc(func(context.Context, string) ([]netip.Addr, error) { return nil, tc.err })}
			_, err := d.dial(t.Context(), config.Store{Name: "erp", Host: "erp.corp", Port: 1433})
			wantError(t, err, "store-unresolved", "store erp", tc.words)
		})
	}
}

func TestDialSlowResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dialer{guards: &guards{}, resolver: resolverFunc(func(ctx context.Context, _ string) ([]netip.Addr, error) {
			select {
			case <-ctx.Done():
				return nil, &net.DNSError{Err: ctx.Err().Error(), IsTimeout: true, Name: "erp.corp"}
			case <-time.After(30 * time.Second):
				return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
			}
		})}
		start := time.Now()
		_, err := d.dial(t.Context(), config.Store{Name: "erp", Host: "erp.corp", Port: 1433})
		wantError(t, err, "store-unresolved", "within 10s")
		if took := time.Since(start); took != dialTimeout {
			t.Errorf("took %v", took)
		}
	})
}

// black is a store of many addresses, of which those in alive answer after
// their time, those in dead refuse after theirs, and the others are silent.
type black struct {
	alive, dead map[string]time.Duration

	mu        sync.Mutex
	tried     []string
	now, peak int
}

func (b *black) connect(ctx context.Context, _ config.Store, to netip.AddrPort) (bundle.Socket, error) {
	b.mu.Lock()
	b.tried = append(b.tried, to.Addr().String())
	b.now++
	b.peak = max(b.peak, b.now)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.now--
		b.mu.Unlock()
	}()
	var after <-chan time.Time
	err := error(nil)
	if d, ok := b.alive[to.Addr().String()]; ok {
		after = time.After(d)
	} else if d, ok := b.dead[to.Addr().String()]; ok {
		after, err = time.After(d), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errRefused)}
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-after:
		if err != nil {
			return nil, err
		}
		return fakeSocket{}, nil
	}
}

func answers(list ...string) Resolver {
	return resolverFunc(func(context.Context, string) (addrs []netip.Addr, err error) {
		for _, s := range list {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		return addrs, nil
	})
}

func many(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("10.1.%d.%d", i/250, i%250+1))
	}
	return list
}

func TestDialRace(t *testing.T) {
	second := time.Second
	for _, tc := range []struct {
		name    string
		addrs   []string
		black   *black
		code    string // of the error; empty: connected
		took    time.Duration
		tried   int
		message string
	}{
		{name: "first address silent", addrs: many(2), black: &black{alive: map[string]time.Duration{"10.1.0.2": 0}}, took: attemptDelay, tried: 2},
		{name: "first address refuses", addrs: many(2), black: &black{alive: map[string]time.Duration{"10.1.0.2": 0}, dead: map[string]time.Duration{"10.1.0.1": 0}}, took: 0, tried: 2},
		{name: "first address slow", addrs: many(2), black: &black{alive: map[string]time.Duration{"10.1.0.1": 3 * second}}, took: 3 * second, tried: 2},
		{name: "one slow address", addrs: many(1), black: &black{alive: map[string]time.Duration{"10.1.0.1": 9 * second}}, took: 9 * second, tried: 1},
		{name: "one silent address", addrs: many(1), code: "store-timeout", took: dialTimeout, tried: 1, message: "10.1.0.1:1433 did not answer within 10s"},
		{name: "both refuse", addrs: many(2), black: &black{dead: map[string]time.Duration{"10.1.0.1": 0, "10.1.0.2": second}}, code: "store-refused", took: second, tried: 2, message: "10.1.0.2:1433 refused"},
		{name: "one refuses, one silent", addrs: many(2), black: &black{dead: map[string]time.Duration{"10.1.0.1": 0}}, code: "store-refused", took: dialTimeout, tried: 2, message: "10.1.0.2:1433 did not answer"},
		{name: "the same address thrice", addrs: []string{"10.1.0.1", "10.1.0.1", "::ffff:10.1.0.1"}, black: &black{dead: map[string]time.Duration{"10.1.0.1": 0}}, code: "store-refused", tried: 1},
		{name: "quick refusals leave a slow one its time", addrs: many(20), black: &black{
			alive: map[string]time.Duration{"10.1.0.1": 5 * second},
			dead:  refusing(many(20)[1:]),
		}, took: 5 * second, tried: 20},
		{name: "200 addresses, the 30th alive", addrs: many(200), black: &black{alive: map[string]time.Duration{"10.1.0.30": 0}}, took: 29 * attemptDelay, tried: 30},
		{name: "200 silent addresses", addrs: many(200), code: "store-timeout", took: dialTimeout, tried: 40, message: " more within 10s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tc.black == nil {
					tc.black = &black{}
				}
				d := &dialer{guards: &guards{}, resolver: answers(tc.addrs...), connect: tc.black.connect}
				start := time.Now()
				sock, err := d.dial(t.Context(), config.Store{Name: "erp", Host: "erp.corp", Port: 1433})
				took := time.Since(start)
				if (err == nil) != (tc.code == "") || (sock != nil) != (err == nil) {
					t.Fatalf("dial: %v, %v", sock, err)
				}
				if err != nil {
					wantError(t, err, tc.code, tc.message)
				}
				tried := len(tc.black.tried)
				if tried == tc.tried+1 && took == dialTimeout {
					tried-- // the timers of the next attempt and of the end are due together
				}
				if took != tc.took || tried != tc.tried {
					t.Errorf("took %v and tried %d, want %v and %d", took, tried, tc.took, tc.tried)
				}
				if peak := tc.black.peak; peak > maxAttempts+1 {
					t.Errorf("%d attempts at once", peak)
				}
			})
		})
	}
}

func refusing(list []string) map[string]time.Duration {
	m := make(map[string]time.Duration)
	for _, a := range list {
		m[a] = 0
	}
	return m
}

// The job that gave up is not told that the store was slow.
func TestDialCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d := &dialer{guards: &guards{}, resolver: answers("10.1.0.1"), connect: (&black{}).connect}
		if _, err := d.dial(ctx, config.Store{Name: "erp", Host: "erp.corp", Port: 1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial: %v", err)
		}
	})
}

func TestDialFamiliesTakeTurns(t *testing.T) {
	got := interleave([]netip.AddrPort{
		netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[fd00::2]:1"), netip.MustParseAddrPort("[fd00::3]:1"), netip.MustParseAddrPort("10.0.0.1:1"),
	})
	var order []string
	for _, a := range got {
		order = append(order, a.Addr().String())
	}
	if want := "fd00::1 10.0.0.1 fd00::2 fd00::3"; strings.Join(order, " ") != want {
		t.Errorf("order %v, want %s", order, want)
	}
}

// The real thing: a dead address on loopback first, then a live one.
func TestDialFirstAddressDead(t *testing.T) {
	ln, port := tcp(t, "127.0.0.3:0")
	d := &dialer{guards: &guards{}, resolver: answers("127.0.0.2", "127.0.0.3")}
	sock, err := d.dial(t.Context(), local("erp.corp", port))
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	if got := sock.RemoteAddr().String(); got != ln.Addr().String() {
		t.Errorf("connected to %s", got)
	}
}

func TestDialRefusedForReal(t *testing.T) {
	ln, port := tcp(t, "127.0.0.1:0")
	_ = ln.Close()
	_, err := (&dialer{guards: &guards{}}).dial(t.Context(), local("127.0.0.1", port))
	wantError(t, err, "store-refused", "refused the connection")
}

func TestDialOutcomes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code string
	}{
		{os.NewSyscallError("connect", errRefused), codeRefused},
		{os.NewSyscallError("connect", errReset), codeRefused},
		{os.NewSyscallError("connect", errTimedOut), codeTimeout},
		{context.DeadlineExceeded, codeTimeout},
		{os.ErrDeadlineExceeded, codeTimeout},
		{os.NewSyscallError("socket", errNoSockets), codeBusy},
		{os.NewSyscallError("connect", errNoLocalPort), codeBusy},
		{os.NewSyscallError("connect", syscall.ENETUNREACH), codeUnreachable},
		{os.NewSyscallError("connect", syscall.EHOSTUNREACH), codeUnreachable},
		{os.NewSyscallError("connect", syscall.EACCES), codeUnreachable},
	} {
		if code, seen := connectOutcome(&net.OpError{Op: "dial", Err: tc.err}); code != tc.code || strings.Contains(seen, "connect:") {
			t.Errorf("%v: %s (%s), want %s", tc.err, code, seen, tc.code)
		}
	}
}
