package proxycfg

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// upgrade asks a proxy for a WebSocket at the relay's HTTP port.
func upgrade(t *testing.T, p *Proxy) (*http.Response, net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://relay.example.com/tunnel", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	return p.Upgrade(req)
}

func TestUpgradeAuthenticatesLikeADial(t *testing.T) {
	for _, tc := range []struct {
		name   string
		offers []string
		early  string
		want   counts
	}{
		{"openly", nil, "", counts{Conns: 1, Requests: 1}},
		{"basic", []string{`Basic realm="corp"`}, "", counts{Conns: 2, Requests: 2, Attempts: 1}},
		{"ntlm", []string{"Negotiate", "NTLM"}, "", counts{Conns: 2, Requests: 3, Attempts: 1}},
		{"first bytes with the answer", []string{"NTLM"}, "early ", counts{Conns: 2, Requests: 3, Attempts: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeProxy(t, tc.offers...)
			f.early = tc.early
			p := newProxy(t, Settings{
				Mode: ModeCustom, URL: f.url(), Username: `CORP\svc`,
				PasswordFile: passwordFile(t, f.account.password), StateDir: t.TempDir(),
			})
			resp, conn, err := upgrade(t, p)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Test") != "far end" {
				t.Errorf("%s, %v", resp.Status, resp.Header)
			}
			early := make([]byte, len(tc.early))
			if _, err := io.ReadFull(conn, early); err != nil || string(early) != tc.early {
				t.Fatalf("%q, %v", early, err)
			}
			echo(t, conn)
			if diff := cmp.Diff(tc.want, f.counts()); diff != "" {
				t.Error(diff)
			}
			if tc.early == "" {
				mustEcho(t, p) // what was learned is good for CONNECT too
			}
		})
	}
}

func TestUpgradeRefused(t *testing.T) {
	for status, code := range map[string]string{
		"426 Upgrade Required":     CodeUpgradeRefused,
		"400 Bad Request":          CodeUpgradeRefused,
		"200 OK":                   CodeUpgradeRefused,
		"403 Forbidden":            CodeProxyForbidden,
		"503 Service Unavailable":  CodeProxyUnavailable,
		"500 Internal Proxy Error": CodeProxyStatus,
	} {
		f := newFakeProxy(t)
		f.status = status
		_, _, err := upgrade(t, newProxy(t, Settings{Mode: ModeCustom, URL: f.url()}))
		if e := wantCode(t, err, code); e.Hop() != "proxy" || e.StatusCode == 0 {
			t.Errorf("%s: hop %q, status %d", status, e.Hop(), e.StatusCode)
		}
	}
	_, _, err := upgrade(t, newProxy(t, Settings{Mode: ModeNone}))
	wantCode(t, err, CodeConfig)
}

// A wrong password is tried once, whatever it is tried for.
func TestUpgradeTriesAWrongPasswordOnce(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	p := newProxy(t, Settings{
		Mode: ModeCustom, URL: f.url(), Username: `CORP\svc`,
		PasswordFile: passwordFile(t, "wrong"), StateDir: t.TempDir(),
	})
	for range 3 {
		_, _, err := upgrade(t, p)
		wantCode(t, err, CodeCredentialRefused)
		_, err = dial(t, p)
		wantCode(t, err, CodeCredentialRefused)
	}
	if n := f.counts().Attempts; n != 1 {
		t.Errorf("%d attempts", n)
	}
}
