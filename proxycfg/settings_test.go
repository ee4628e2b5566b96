package proxycfg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigErrors(t *testing.T) {
	const url = "http://proxy.corp.example:8080"
	for _, tc := range []struct {
		name string
		set  Settings
		key  string
	}{
		{"mode", Settings{Mode: "auto"}, "proxy.mode"},
		{"no url", Settings{Mode: ModeCustom}, "proxy.url"},
		{"no scheme", Settings{Mode: ModeCustom, URL: "proxy.corp.example:8080"}, "proxy.url"},
		{"https", Settings{Mode: ModeCustom, URL: "https://proxy.corp.example:8080"}, "proxy.url"},
		{"socks", Settings{Mode: ModeCustom, URL: "socks5://proxy.corp.example:1080"}, "proxy.url"},
		{"path", Settings{Mode: ModeCustom, URL: url + "/proxy.pac"}, "proxy.url"},
		{"port", Settings{Mode: ModeCustom, URL: "http://proxy.corp.example:99999"}, "proxy.url"},
		{"port zero", Settings{Mode: ModeCustom, URL: "http://proxy.corp.example:0"}, "proxy.url"},
		{"host", Settings{Mode: ModeCustom, URL: "http://:8080"}, "proxy.url"},
		{"host with an injection", Settings{Mode: ModeCustom, URL: "http://a%0d%0ab:8080"}, "proxy.url"},
		{"backslash in the user", Settings{Mode: ModeCustom, URL: `http://CORP\svc:canary@proxy.corp.example:8080`}, "proxy.url"},
		{"colon in the password", Settings{Mode: ModeCustom, URL: `http://svc:canary@x:canary@proxy.corp.example:8080:1`}, "proxy.url"},
		{"scheme", Settings{Mode: ModeCustom, URL: url, Auth: []Scheme{SchemeNTLM, "digest"}}, "proxy.auth[1]"},
		{"user without password", Settings{Mode: ModeCustom, URL: url, Username: "u"}, "proxy.password_file"},
		{"password without user", Settings{Mode: ModeCustom, URL: url, PasswordFile: "f"}, "proxy.username"},
		{"two users", Settings{Mode: ModeCustom, URL: "http://a:canary@proxy:80", Username: "u"}, "proxy.username"},
		{"two passwords", Settings{Mode: ModeCustom, URL: "http://a:canary@proxy:80", PasswordFile: "f"}, "proxy.password_file"},
		{"empty password", Settings{Mode: ModeCustom, URL: "http://a:@proxy:80"}, "proxy.url"},
		{"colon in the user", Settings{Mode: ModeCustom, URL: url, Username: "a:b", PasswordFile: "f"}, "proxy.username"},
		{"line end in the user", Settings{Mode: ModeCustom, URL: url, Username: "a\r\nb", PasswordFile: "f"}, "proxy.username"},
		{"bypass empty", Settings{Bypass: []string{"a", " "}}, "proxy.bypass[1]"},
		{"bypass domain", Settings{Bypass: []string{".corp.example"}}, "proxy.bypass[0]"},
		{"bypass prefix", Settings{Bypass: []string{"10.0.0.0/33"}}, "proxy.bypass[0]"},
		{"bypass port", Settings{Bypass: []string{"a.example:443"}}, "proxy.bypass[0]"},
		{"bypass URL", Settings{Bypass: []string{"http://a.example"}}, "proxy.bypass[0]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New(tc.set, nil)
			e := wantCode(t, err, CodeConfig)
			if e.Key != tc.key || !strings.Contains(e.Error(), tc.key) || e.Hop() != "config" || !e.Permanent() {
				t.Errorf("key %q: %v", e.Key, e)
			}
			if strings.Contains(e.Error()+e.Advice(), "canary") {
				t.Errorf("password in %v", e)
			}
		})
	}
}

func TestFor(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	custom := Settings{Mode: ModeCustom, URL: "http://u:p@Proxy.Corp.example:8080/", Bypass: []string{
		"*.corp.example", "files.example", "10.0.0.0/8", "192.0.2.7", "::ffff:172.16.0.0/108", "2001:db8::/32",
		"[fd00::1]", "db*.*.lab", "BÜRO.example", "*intra*",
	}}
	const direct = ""
	for _, tc := range []struct {
		name string
		set  Settings
		host string
		port int
		want string
	}{
		{"none", Settings{URL: "http://p:1"}, "a.example", 443, direct},
		{"custom", custom, "relay.example.com", 443, "http://proxy.corp.example:8080"},
		{"custom, port 80", custom, "relay.example.com", 80, "http://proxy.corp.example:8080"},
		{"default port", Settings{Mode: ModeCustom, URL: "http://proxy"}, "a", 443, "http://proxy:80"},
		{"IPv6 proxy", Settings{Mode: ModeCustom, URL: "http://[2001:DB8::1]:3128"}, "a", 443, "http://[2001:db8::1]:3128"},
		{"glob", custom, "a.corp.example", 443, direct},
		{"glob, deeper", custom, "a.b.corp.example", 443, direct},
		{"glob, case and dot", custom, "A.CORP.Example.", 443, direct},
		{"glob, not the domain itself", custom, "corp.example", 443, "http://proxy.corp.example:8080"},
		{"glob, not a longer name", custom, "a.corp.example.com", 443, "http://proxy.corp.example:8080"},
		{"glob, not a longer label", custom, "acorp.example", 443, "http://proxy.corp.example:8080"},
		{"glob, two asterisks", custom, "db1.a.lab", 443, direct},
		{"glob, two asterisks, too little", custom, "db1lab", 443, "http://proxy.corp.example:8080"},
		{"glob, in the middle", custom, "x.intra.y", 443, direct},
		{"host", custom, "files.example", 443, direct},
		{"host, not below", custom, "a.files.example", 443, "http://proxy.corp.example:8080"},
		{"non-ASCII", custom, "büro.example", 443, direct},
		{"punycode", custom, "xn--bro-hoa.example", 443, direct},
		{"prefix", custom, "10.200.1.2", 443, direct},
		{"prefix, mapped", custom, "::ffff:10.200.1.2", 443, direct},
		{"mapped prefix", custom, "172.16.3.4", 443, direct},
		{"prefix, outside", custom, "11.0.0.1", 443, "http://proxy.corp.example:8080"},
		{"address", custom, "192.0.2.7", 443, direct},
		{"address, brackets", custom, "[fd00::1]", 443, direct},
		{"IPv6 prefix", custom, "2001:db8:1::5", 443, direct},
		{"a zone is no name", custom, "2001:db9::1%25.corp.example", 443, "http://proxy.corp.example:8080"},
		{"a zone hides no rule", custom, "fd00::1%eth0", 443, direct},

		{"system, nothing", Settings{Mode: ModeSystem, Environment: env()}, "a.example", 443, direct},
		{"system, nil", Settings{Mode: ModeSystem}, "a.example", 443, direct},
		{"system, https", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "http://s:1")}, "a.example", 443, "http://s:1"},
		{"system, other port", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "http://s:1")}, "a.example", 8443, "http://s:1"},
		{"system, https only", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "http://s:1")}, "a.example", 80, direct},
		{"system, http", Settings{Mode: ModeSystem, Environment: env("HTTP_PROXY", "http://h:1", "HTTPS_PROXY", "http://s:1")}, "a.example", 80, "http://h:1"},
		{"system, http only", Settings{Mode: ModeSystem, Environment: env("HTTP_PROXY", "http://h:1")}, "a.example", 443, direct},
		{"system, lower case wins", Settings{Mode: ModeSystem, Environment: env("https_proxy", "http://l:1", "HTTPS_PROXY", "http://s:1")}, "a.example", 443, "http://l:1"},
		{"system, host and port", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1")}, "a.example", 443, "http://s:1"},
		{"system, NO_PROXY", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1", "NO_PROXY", "b.example, .a.example")}, "x.a.example", 443, direct},
		{"system, NO_PROXY, prefix", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1", "no_proxy", "10.0.0.0/8")}, "10.1.1.1", 443, direct},
		{"system, NO_PROXY, port", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1", "NO_PROXY", "a.example:444")}, "a.example", 443, "http://s:1"},
		{"system, NO_PROXY, all", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1", "NO_PROXY", "*")}, "a.example", 443, direct},
		{"system, NO_PROXY, other", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1", "NO_PROXY", "b.example")}, "a.example", 443, "http://s:1"},
		{"system, loopback", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1")}, "127.0.0.1", 443, direct},
		{"system, bypass too", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "s:1"), Bypass: []string{"a.*"}}, "a.example", 443, direct},
		{"system, unusable", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "socks5://s:1")}, "a.example", 443, "error"},
		{"system, unusable, for others only", Settings{Mode: ModeSystem, Environment: env("HTTP_PROXY", "socks5://s:1", "HTTPS_PROXY", "s:1")}, "a.example", 443, "http://s:1"},
		{"system, unreadable", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "http://a b:x")}, "a.example", 443, "error"},
		{"system, user without password", Settings{Mode: ModeSystem, Environment: env("HTTPS_PROXY", "http://u@s:1")}, "a.example", 443, "error"},

		{"port zero", custom, "a.example", 0, "error"},
		{"port too large", custom, "a.example", 65536, "error"},
		{"empty host", custom, "", 443, "error"},
		{"injection", custom, "a\r\nX: y", 443, "error"},
		{"injection by zone", custom, "fe80::1%\r\nX: y", 443, "error"},
		{"space", custom, "a b", 443, "error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProxy(t, tc.set)
			u, err := p.For(tc.host, tc.port)
			got := direct
			switch {
			case err != nil:
				wantCode(t, err, CodeConfig)
				got = "error"
			case u != nil:
				got = u.String()
			}
			if got != tc.want {
				t.Errorf("For(%q, %d) = %q (%v), want %q", tc.host, tc.port, got, err, tc.want)
			}
		})
	}
}

// Both variables naming one proxy give one gate, so one attempt.
func TestSystemProxyIsOne(t *testing.T) {
	f := newFakeProxy(t, "NTLM")
	p := newProxy(t, Settings{
		Mode: ModeSystem, Environment: func(string) string { return f.addr() },
		Username: "svc", PasswordFile: passwordFile(t, "wrong"),
	})
	for _, addr := range []string{"a.example:80", "a.example:443"} {
		_, err := p.DialContext(t.Context(), "tcp", addr)
		wantCode(t, err, CodeCredentialRefused)
	}
	if got := f.counts().Attempts; got != 1 {
		t.Errorf("%d attempts", got)
	}
	if got := p.Status(); got.Proxy != f.addr() || !got.Refused {
		t.Errorf("%+v", got)
	}
}

func TestBadDestination(t *testing.T) {
	p := newProxy(t, Settings{Mode: ModeCustom, URL: "http://127.0.0.1:1"})
	for _, addr := range []string{"", "a", "a:", "a:b", "a:0", "a:65536", ":443", "a b:443", "a\r\n:443", "[::1%\r\n]:443", "a\x00:1"} {
		_, err := p.DialContext(t.Context(), "tcp", addr)
		wantCode(t, err, CodeConfig)
	}
	_, err := p.DialContext(t.Context(), "udp", target)
	wantCode(t, err, CodeConfig)
}

func TestPasswordFile(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("as root, permissions are not seen to be missing")
	}
	for _, tc := range []struct {
		name string
		make func(t *testing.T, path string)
		says string // empty: it is good
	}{
		{"missing", func(*testing.T, string) {}, "does not exist"},
		{"folder", func(t *testing.T, path string) { check(t, os.Mkdir(path, 0o700)) }, "regular file"},
		{"empty", write(""), "is empty"},
		{"only a line end", write("\r\n"), "is empty"},
		{"two lines", write("a\nb\n"), "more than one line"},
		{"blank line after", write("a\n\n"), "more than one line"},
		{"UTF-16", write("\xff\xfea\x00"), "UTF-8"},
		{"zero bytes", write("a\x00b"), "UTF-8"},
		{"long", write(strings.Repeat("x", maxPassword+1)), "longer"},
		{"huge", write(strings.Repeat("x", 1<<20)), "longer"},
		{"unreadable", func(t *testing.T, path string) {
			if os.Geteuid() == 0 {
				t.Skip("root reads everything")
			}
			check(t, os.WriteFile(path, []byte("a"), 0o000))
		}, "permission denied"},
		{"good", write("pa:ss w%rd"), ""},
		{"CRLF", write("pa:ss w%rd\r\n"), ""},
		{"byte order mark", write("\xef\xbb\xbfpa:ss w%rd\r\n"), ""},
		{"link", func(t *testing.T, path string) {
			write("pa:ss w%rd")(t, path+".real")
			check(t, os.Symlink(path+".real", path))
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "password")
			tc.make(t, path)
			f := newFakeProxy(t, "Basic")
			p := newProxy(t, Settings{Mode: ModeCustom, URL: f.url(), Username: "svc", PasswordFile: path})
			if tc.says == "" {
				mustEcho(t, p)
				return
			}
			_, err := dial(t, p)
			e := wantCode(t, err, CodePasswordFile)
			if !strings.Contains(e.Error(), tc.says) || !strings.Contains(e.Error(), path) || e.Key != "proxy.password_file" {
				t.Errorf("%v", e)
			}
			if f.counts().Conns != 0 {
				t.Error("the proxy was spoken to")
			}
		})
	}
}

func write(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) { check(t, os.WriteFile(path, []byte(text), 0o600)) }
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A password file that others can read is complained about once.
func TestOpenPasswordFile(t *testing.T) {
	var log bytes.Buffer
	f := newFakeProxy(t, "Basic")
	path := passwordFile(t, f.account.password)
	check(t, os.Chmod(path, 0o644))
	p, err := New(Settings{Mode: ModeCustom, URL: f.url(), Username: "svc", PasswordFile: path}, slog.New(slog.NewTextHandler(&log, nil)))
	check(t, err)
	mustEcho(t, p)
	mustEcho(t, p)
	if got := strings.Count(log.String(), "level=WARN"); got != 1 || !strings.Contains(log.String(), path) {
		t.Errorf("%d warnings:\n%s", got, log.String())
	}
	if strings.Contains(log.String(), f.account.password) {
		t.Error("password in the log")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	set := Settings{Mode: ModeCustom, URL: "http://u:can@ary@proxy:80", Username: "u"}
	cred := credential{user: "u", password: newSecret("canary")}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "set", set, "cred", cred.password)
	asJSON, err := json.Marshal(struct {
		A Settings
		B secret
	}{set, cred.password})
	check(t, err)
	for _, v := range []any{set, &set, cred, &cred, cred.password, []secret{cred.password}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			log.WriteString(fmt.Sprintf(verb, v))
		}
	}
	log.Write(asJSON)
	for _, bad := range []string{"canary", "can@", "63616e617279", fmt.Sprintf("%x", "can@ary")} {
		if strings.Contains(log.String(), bad) {
			t.Errorf("%q was printed:\n%s", bad, log.String())
		}
	}
	if !strings.Contains(log.String(), redacted) {
		t.Error("nothing was printed")
	}
}

func TestErrorsOfSystemMode(t *testing.T) {
	p := newProxy(t, Settings{Mode: ModeSystem, Environment: func(name string) string {
		if name == "HTTPS_PROXY" {
			return "https://u:canary@proxy:1"
		}
		return ""
	}})
	_, err := p.DialContext(t.Context(), "tcp", target)
	e := wantCode(t, err, CodeConfig)
	if e.Key != "HTTPS_PROXY" || strings.Contains(e.Error(), "canary") {
		t.Errorf("%v", e)
	}
	if errors.Unwrap(e) != nil {
		t.Error("cause")
	}
}
