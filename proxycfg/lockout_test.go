package proxycfg

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var schemeOffers = []struct {
	name   string
	offers []string
}{
	{"ntlm", []string{"NTLM"}},
	{"basic", []string{"Basic realm=x"}},
	{"both", []string{"Basic realm=x", "NTLM"}},
}

// A wrong password costs one attempt: over fifty dials at once, later ones,
// a restart, and with two schemes on offer.
func TestWrongPasswordCostsOneAttempt(t *testing.T) {
	for _, tc := range schemeOffers {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, tc.offers...)
			set := Settings{
				Mode: ModeCustom, URL: f.url(), Username: `CORP\svc`,
				PasswordFile: passwordFile(t, "wrong-canary"), StateDir: t.TempDir(),
			}
			p := newProxy(t, set)
			attempts := func(want int) {
				t.Helper()
				if got := f.counts().Attempts; got != want {
					t.Fatalf("%d attempts, want %d", got, want)
				}
			}
			now := 0
			for _, err := range dialMany(t, p, 50) {
				e := wantCode(t, err, CodeCredentialRefused)
				if !e.Permanent() || e.Hop() != "proxy-auth" || e.Proxy != f.addr() || e.StatusCode != 407 {
					t.Errorf("%+v", e)
				}
				if strings.Contains(e.Error()+e.Advice(), "canary") {
					t.Errorf("password in %v", e)
				}
				if !strings.Contains(e.Error(), "nothing has changed") {
					now++
				}
			}
			if now != 1 {
				t.Errorf("%d dials were refused at once, want 1", now)
			}
			attempts(1)
			before := f.counts()
			_, err := dial(t, p)
			wantCode(t, err, CodeCredentialRefused)
			if diff := cmp.Diff(before, f.counts()); diff != "" {
				t.Error("the proxy was spoken to:", diff)
			}
			if diff := cmp.Diff(Status{Proxy: f.addr(), Refused: true}, p.Status()); diff != "" {
				t.Error(diff)
			}

			for range 3 { // restarts
				p = newProxy(t, set)
				for _, err := range dialMany(t, p, 20) {
					wantCode(t, err, CodeCredentialRefused)
				}
				if !p.Status().Refused {
					t.Error("Status does not tell it")
				}
			}
			if diff := cmp.Diff(before, f.counts()); diff != "" {
				t.Error("the proxy was spoken to after a restart:", diff)
			}

			// The right password is taken up without a restart.
			if err := os.WriteFile(set.PasswordFile, []byte(f.account.password), 0o600); err != nil {
				t.Fatal(err)
			}
			mustEcho(t, p)
			attempts(2)
			p = newProxy(t, set)
			mustEcho(t, p)
			attempts(3)
		})
	}
}

// What lifts a refusal costs one attempt each, also with fifty dials at once.
func TestRefusalIsLifted(t *testing.T) {
	touch := func(t *testing.T, set *Settings, _ *Proxy) {
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(set.PasswordFile, later, later); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, set *Settings, _ *Proxy) {
		if err := os.Remove(filepath.Join(set.StateDir, memoryFile)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name    string
		change  func(*testing.T, *Settings, *Proxy)
		restart bool
		want    int
	}{
		{"other password", func(t *testing.T, set *Settings, _ *Proxy) {
			if err := os.WriteFile(set.PasswordFile, []byte("other"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, 2},
		{"file touched", touch, false, 2},
		// A file that a service manager makes at each start is no sign of a person.
		{"file touched, restart", touch, true, 1},
		{"record removed", remove, false, 2},
		{"record removed, restart", remove, true, 2},
		{"other user", func(_ *testing.T, set *Settings, _ *Proxy) { set.Username = `CORP\other` }, true, 2},
		{"other schemes", func(_ *testing.T, set *Settings, _ *Proxy) { set.Auth = []Scheme{SchemeBasic} }, true, 2},
		{"same schemes, said", func(_ *testing.T, set *Settings, _ *Proxy) { set.Auth = []Scheme{SchemeBasic, SchemeNTLM} }, true, 1},
		{"nothing", func(*testing.T, *Settings, *Proxy) {}, false, 1},
		{"key removed", func(t *testing.T, set *Settings, _ *Proxy) {
			if err := os.Remove(filepath.Join(set.StateDir, memoryKeyFile)); err != nil {
				t.Fatal(err)
			}
		}, true, 2},
		{"record damaged", func(t *testing.T, set *Settings, _ *Proxy) {
			if err := os.WriteFile(filepath.Join(set.StateDir, memoryFile), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, true, 2},
		{"record damaged, no restart", func(t *testing.T, set *Settings, _ *Proxy) {
			if err := os.WriteFile(filepath.Join(set.StateDir, memoryFile), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, "NTLM", "Basic")
			set := Settings{
				Mode: ModeCustom, URL: f.url(), Username: `CORP\svc`,
				PasswordFile: passwordFile(t, "wrong"), StateDir: t.TempDir(),
			}
			p := newProxy(t, set)
			_, err := dial(t, p)
			wantCode(t, err, CodeCredentialRefused)
			tc.change(t, &set, p)
			if tc.restart {
				p = newProxy(t, set)
			}
			for range 2 {
				for _, err := range dialMany(t, p, 50) {
					wantCode(t, err, CodeCredentialRefused)
				}
			}
			if got := f.counts().Attempts; got != tc.want {
				t.Errorf("%d attempts, want %d", got, tc.want)
			}
		})
	}
}

// A password that goes back to one that was refused long ago is tried, as a good
// one was in between.
func TestPasswordRotatedBack(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	set := Settings{
		Mode: ModeCustom, URL: f.url(), Username: `CORP\svc`,
		PasswordFile: passwordFile(t, "second"), StateDir: t.TempDir(),
	}
	f.account.password = "first"
	p := newProxy(t, set)
	_, err := dial(t, p)
	wantCode(t, err, CodeCredentialRefused)
	rewrite := func(password string) {
		t.Helper()
		if err := os.WriteFile(set.PasswordFile, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite("first")
	mustEcho(t, p)
	f.account.password = "second"
	rewrite("second")
	mustEcho(t, p)
}

// Without a state directory, and with one that cannot be written, one process
// still makes one attempt.
func TestNothingRemembered(t *testing.T) {
	for _, tc := range []struct{ name, dir string }{{"none", ""}, {"missing", "/nonexistent/ebbgate"}} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, "NTLM")
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: `CORP\svc`,
				PasswordFile: passwordFile(t, "wrong"), StateDir: tc.dir,
			})
			for _, err := range dialMany(t, p, 50) {
				wantCode(t, err, CodeCredentialRefused)
			}
			if got := f.counts().Attempts; got != 1 {
				t.Errorf("%d attempts", got)
			}
		})
	}
}

// A password that was changed at the domain is found out by few attempts, and
// none follows.
func TestPasswordExpires(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: "svc",
		PasswordFile: passwordFile(t, f.account.password), StateDir: t.TempDir(),
	})
	mustEcho(t, p)
	f.account.password = "new"
	_, err := dial(t, p)
	wantCode(t, err, CodeCredentialRefused)
	for _, err := range dialMany(t, p, 50) {
		wantCode(t, err, CodeCredentialRefused)
	}
	if got := f.counts().Attempts; got != 2 {
		t.Errorf("%d attempts, want 2", got)
	}
}

// An attempt whose dial is given up is still listened to for a second, so that
// its outcome is known and a refusal is remembered.
func TestCanceledAttempt(t *testing.T) {
	const (
		yes = "HTTP/1.1 200 OK\r\n\r\n"
		no  = "HTTP/1.1 407 A\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
	)
	for _, tc := range []struct {
		name   string
		after  time.Duration // the answer
		answer string
		code   string // of the dial
		then   string // code of the next dial, empty: it has the scheme
	}{
		{"refused", outcomeGrace - 1, no, CodeCredentialRefused, CodeCredentialRefused},
		{"accepted", outcomeGrace - 1, yes, CodeCanceled, ""},
		{"refused too late", outcomeGrace + 1, no, CodeCanceled, CodeAuthUnanswered},
		{"accepted too late", outcomeGrace + 1, yes, CodeCanceled, CodeAuthUnanswered},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				var attempts atomic.Int32
				s := &pipes{serve: func(c net.Conn) {
					req, err := http.ReadRequest(bufio.NewReader(c))
					if err != nil {
						return
					}
					answer := no
					if req.Header.Get("Proxy-Authorization") != "" {
						attempts.Add(1)
						cancel()
						time.Sleep(tc.after)
						answer = tc.answer
					}
					_, _ = io.WriteString(c, answer)
				}}
				u := pipeUpstream(s.reach())
				u.memory = newMemory(dir)
				_, err := u.dial(ctx, connectTo(target))
				wantCode(t, err, tc.code)
				s.wg.Wait()
				if tc.then == "" {
					if got, _ := u.gate.status(); got != SchemeBasic {
						t.Errorf("scheme %q", got)
					}
					return
				}
				_, err = u.dial(t.Context(), connectTo(target))
				wantCode(t, err, tc.then)
				if got := attempts.Load(); got != 1 {
					t.Errorf("%d attempts", got)
				}
				if r := mustRecall(t, u.memory, u.account(u.source.last)); (r != nil) != (tc.then == CodeCredentialRefused) {
					t.Errorf("remembered: %v", r)
				}
			})
		})
	}
}

// A proxy that hangs up on a wrong password, in place of 407, gets one attempt,
// and the next only after a while.
func TestUnansweredAttempt(t *testing.T) {
	for _, tc := range schemeOffers {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, tc.offers...)
			f.onAttempt = func(int) bool { return true }
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: "svc",
				PasswordFile: passwordFile(t, "wrong"), StateDir: t.TempDir(),
			})
			_, err := dial(t, p)
			wantCode(t, err, CodeProxyClosed)
			for _, err := range dialMany(t, p, 50) {
				wantCode(t, err, CodeAuthUnanswered)
			}
			if got := f.counts().Attempts; got != 1 {
				t.Errorf("%d attempts", got)
			}
		})
	}
}

// Any answer but 407 to an attempt says that the credential is good.
func TestOtherAnswersProve(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	f.status = "503 Service Unavailable"
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: "svc", PasswordFile: passwordFile(t, f.account.password),
	})
	_, err := dial(t, p)
	wantCode(t, err, CodeProxyUnavailable)
	if got := p.Status().Auth; got != SchemeNTLM {
		t.Errorf("scheme %q", got)
	}
}
