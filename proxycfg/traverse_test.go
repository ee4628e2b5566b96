package proxycfg

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNTLM(t *testing.T) {
	for _, tc := range []struct {
		name, user, password string
		change               func(*fakeProxy)
	}{
		{name: "domain", user: `CORP\svc`},
		{name: "principal name", user: "svc@corp.test"},
		{name: "bare", user: "svc"},
		{name: "non-ASCII", user: `CORP\jürgen`, password: "pässwörd€", change: func(f *fakeProxy) {
			f.account = ntlmAccount{"CORP", "jürgen", "pässwörd€"}
		}},
		{name: "keep_alive off", user: `CORP\svc`, change: func(f *fakeProxy) { f.keepAliveOff = true }},
		{name: "keep_alive off, unsaid", user: `CORP\svc`, change: func(f *fakeProxy) { f.keepAliveOff, f.silentClose = true, true }},
		{name: "chunked 407", user: `CORP\svc`, change: func(f *fakeProxy) { f.chunked = true }},
		{name: "large 407", user: `CORP\svc`, change: func(f *fakeProxy) { f.bodySize = 200 << 10 }},
		{name: "empty 407", user: `CORP\svc`, change: func(f *fakeProxy) { f.bodySize = 0 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, "Negotiate", "NTLM", `Basic realm="corp, inc"`)
			if tc.change != nil {
				tc.change(f)
			}
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: tc.user,
				PasswordFile: passwordFile(t, f.account.password), StateDir: t.TempDir(),
			})
			mustEcho(t, p)
			if diff := cmp.Diff(counts{Conns: 2, Requests: 3, Attempts: 1}, f.counts()); diff != "" {
				t.Error("challenged:", diff)
			}
			mustEcho(t, p)
			if diff := cmp.Diff(counts{Conns: 3, Requests: 5, Attempts: 2}, f.counts()); diff != "" {
				t.Error("preemptive:", diff)
			}
			if f.flags[0]&0x04 == 0 {
				t.Error("NTLMSSP_REQUEST_TARGET is not set")
			}
			if diff := cmp.Diff(Status{Proxy: f.addr(), Auth: SchemeNTLM}, p.Status()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBasic(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*fakeProxy)
	}{
		{name: "plain"},
		{name: "closing", change: func(f *fakeProxy) { f.keepAliveOff = true }},
		{name: "closing, unsaid", change: func(f *fakeProxy) { f.keepAliveOff, f.silentClose = true, true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, `Digest realm="r", nonce="a,b", qop="auth", Basic realm="corp"`)
			if tc.change != nil {
				tc.change(f)
			}
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: `CORP\svc`,
				PasswordFile: passwordFile(t, f.account.password), StateDir: t.TempDir(),
			})
			mustEcho(t, p)
			mustEcho(t, p)
			if diff := cmp.Diff(counts{Conns: 3, Requests: 3, Attempts: 2}, f.counts()); diff != "" {
				t.Error(diff)
			}
			if got := p.Status().Auth; got != SchemeBasic {
				t.Error("scheme", got)
			}
		})
	}
}

func TestPasswordInURL(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	p := newProxy(t, Settings{Mode: ModeCustom, URL: "http://CORP%5Csvc:pa%3Ass%20w%25rd@" + f.addr()})
	mustEcho(t, p)
	if got, err := p.For("relay.example.com", 443); err != nil || got.String() != f.url() {
		t.Errorf("For = %v, %v", got, err)
	}
}

// A proxy that asks for nothing never sees the credential, and dials to it go
// side by side.
func TestOpenProxy(t *testing.T) {
	f := newFakeProxy(t)
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: "svc",
		PasswordFile: passwordFile(t, "wrong"), StateDir: t.TempDir(),
	})
	for range 3 {
		mustEcho(t, p)
	}
	if diff := cmp.Diff(counts{Conns: 3, Requests: 3}, f.counts()); diff != "" {
		t.Error(diff)
	}
}

// A proxy that begins to ask is answered, still by one dial at first.
func TestOpenProxyBeginsToAsk(t *testing.T) {
	f := newFakeProxy(t)
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: "svc",
		PasswordFile: passwordFile(t, f.account.password+"wrong"), StateDir: t.TempDir(),
	})
	mustEcho(t, p)
	f.offers = []string{"NTLM", "Basic"}
	errs := dialMany(t, p, 20)
	for _, err := range errs {
		wantCode(t, err, CodeCredentialRefused)
	}
	if got := f.counts().Attempts; got != 1 {
		t.Errorf("%d attempts, want 1", got)
	}
}

// A proxy that drops the learned scheme is asked anew.
func TestSchemeChanges(t *testing.T) {
	for _, tc := range []struct{ before, after string }{{"Basic", "NTLM"}, {"NTLM", "Basic"}} {
		t.Run(tc.before+" to "+tc.after, func(t *testing.T) {
			f := newFakeProxy(t, tc.before)
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: "svc",
				PasswordFile: passwordFile(t, f.account.password), StateDir: t.TempDir(),
			})
			mustEcho(t, p)
			f.offers = []string{tc.after}
			mustEcho(t, p)
			if got := p.Status().Auth; !strings.EqualFold(string(got), tc.after) {
				t.Errorf("scheme %s, want %s", got, tc.after)
			}
		})
	}
}

func TestConnectionIsTCP(t *testing.T) {
	for _, tc := range []struct {
		name  string
		early string
	}{{"nothing early", ""}, {"early bytes", "SSH-2.0-test\r\n"}} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, "NTLM")
			f.early = tc.early
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: "svc", PasswordFile: passwordFile(t, f.account.password),
			})
			conn, err := dial(t, p)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if tc.early == "" {
				if _, ok := conn.(*net.TCPConn); !ok {
					t.Errorf("connection is a %T", conn)
				}
				echo(t, conn)
				return
			}
			// The early bytes may come a packet after the 200 and then need no wrapper.
			if w, ok := conn.(*Conn); ok {
				rest, under := w.Unwrap()
				if _, ok := under.(*net.TCPConn); !ok || !strings.HasPrefix(tc.early, string(rest)) {
					t.Errorf("Unwrap = %q, %T", rest, under)
				}
			}
			half := conn.(interface{ CloseWrite() error })
			if _, err := io.WriteString(conn, "last"); err != nil {
				t.Fatal(err)
			}
			if err := half.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || string(got) != tc.early+"last" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// A connection on which bytes were certainly early is wrapped.
func TestEarlyBytes(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		buf := make([]byte, 1024)
		_, _ = b.Read(buf)
		_, _ = io.WriteString(b, "HTTP/1.1 200 OK\r\n\r\nearly")
		_, _ = io.WriteString(b, " late")
		_ = b.Close()
	}()
	x := newExchange(context.Background(), a, connectTo(target))
	if _, err := x.ask(""); err != nil {
		t.Fatal(err)
	}
	conn, err := x.release(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if rest, under := conn.(*Conn).Unwrap(); string(rest) != "early" || under != a {
		t.Errorf("Unwrap = %q, %v", rest, under)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "early late" {
		t.Errorf("read %q, %v", got, err)
	}
}

// dialMany dials n times at once and returns what came of it.
func dialMany(t *testing.T, p *Proxy, n int) []error {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			conn, err := dial(t, p)
			if err == nil {
				echo(t, conn)
				_ = conn.Close()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errs
}

// Of fifty dials with a good credential the first one goes alone.
func TestFirstDialGoesAlone(t *testing.T) {
	for _, offer := range []string{"NTLM", "Basic"} {
		t.Run(offer, func(t *testing.T) {
			f := newFakeProxy(t, offer)
			var early atomic.Bool
			release := make(chan struct{})
			f.onAttempt = func(n int) bool {
				if n == 1 {
					// Give the others all the time to come, if they do.
					timer := time.AfterFunc(100*time.Millisecond, func() { close(release) })
					<-release
					timer.Stop()
					early.Store(f.counts().Attempts > 1 || f.counts().Conns > 2)
				}
				return false
			}
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: "svc",
				PasswordFile: passwordFile(t, f.account.password), StateDir: t.TempDir(),
			})
			for _, err := range dialMany(t, p, 50) {
				if err != nil {
					t.Error(err)
				}
			}
			if early.Load() {
				t.Error("others dialled while the first one was under way")
			}
			if got := f.counts().Attempts; got != 50 {
				t.Errorf("%d attempts", got)
			}
		})
	}
}

// Between NTLM's first message and its third a proxy's helper is held.
func TestHandshakesAreSerial(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	var now, most atomic.Int32
	f.onHandshake = func(begin bool) {
		if !begin {
			return
		}
		// As long as this one has no challenge, no other may begin.
		if n := now.Add(1); n > 1 {
			most.Store(n)
		}
		<-time.After(time.Millisecond)
		now.Add(-1)
	}
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: "svc", PasswordFile: passwordFile(t, f.account.password),
	})
	mustEcho(t, p)
	for _, err := range dialMany(t, p, 30) {
		if err != nil {
			t.Error(err)
		}
	}
	if got := most.Load(); got > 1 {
		t.Errorf("%d handshakes at once", got)
	}
}

// A handshake that is given up is closed and does not hold up the next one.
func TestAbandonedHandshake(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	ended := make(chan struct{}, 8)
	hold := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var once sync.Once
	f.onHandshake = func(begin bool) {
		if begin {
			once.Do(func() { cancel(); <-hold })
		} else {
			ended <- struct{}{}
		}
	}
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: "svc", PasswordFile: passwordFile(t, f.account.password),
	})
	_, err := p.DialContext(ctx, "tcp", target)
	wantCode(t, err, CodeCanceled)
	close(hold)
	<-ended // the proxy has seen the end of the connection
	mustEcho(t, p)
	if got := f.counts().Attempts; got != 1 {
		t.Errorf("%d attempts", got)
	}
}

func TestDirect(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f := newFakeProxy(t)
	for _, set := range []Settings{
		{},
		{Mode: ModeNone, URL: f.url()},
		{Mode: ModeSystem, Environment: func(string) string { return "" }},
		{Mode: ModeCustom, URL: f.url(), Bypass: []string{"127.0.0.0/8"}},
	} {
		t.Run(fmt.Sprint(set.Mode), func(t *testing.T) {
			p := newProxy(t, set)
			conn, err := p.DialContext(context.Background(), "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, ok := conn.(*net.TCPConn); !ok || conn.RemoteAddr().String() != ln.Addr().String() {
				t.Errorf("%T to %v", conn, conn.RemoteAddr())
			}
		})
	}
	if f.counts().Conns != 0 {
		t.Error("the proxy was used")
	}
}
