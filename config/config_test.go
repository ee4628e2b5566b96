package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nothing is an environment without variables (nil would be the real one).
var nothing = []string{}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// problems are the error's lines without the folder of the file.
func problems(t *testing.T, path string, err error) string {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want *Error", err)
	}
	return strings.ReplaceAll(e.Error(), filepath.Dir(path)+string(filepath.Separator), "")
}

func TestRelayDefaults(t *testing.T) {
	got, err := LoadRelay(Options{File: write(t, "relay.yaml", "hostname: relay.example.com\n"), Environment: nothing})
	if err != nil {
		t.Fatal(err)
	}
	want := &Relay{
		Hostname:    "relay.example.com",
		Listen:      RelayListen{TLS: ":443", QUIC: ":443", HTTP: ":80"},
		State:       RelayState{Dir: defaultDir("ebbgate"), KeyFile: filepath.Join(defaultDir("ebbgate"), "state.key")},
		Log:         Log{Format: LogAuto},
		ResumeGrace: DefaultResumeGrace,
		Activity:    RelayActivity{Keep: DefaultKeep},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRelayListen(t *testing.T) {
	for _, tt := range []struct {
		listen string
		want   RelayListen
	}{
		{`{}`, RelayListen{TLS: ":443", QUIC: ":443", HTTP: ":80"}},
		{`{tls: "127.0.0.1:0"}`, RelayListen{TLS: "127.0.0.1:0", QUIC: "127.0.0.1:0", HTTP: ":80"}},
		{`{tls: ":8443", quic: "", http: ""}`, RelayListen{TLS: ":8443"}},
		{`{quic: "[::1]:8443", http: ":8080"}`, RelayListen{TLS: ":443", QUIC: "[::1]:8443", HTTP: ":8080"}},
	} {
		path := write(t, "relay.yaml", "hostname: localhost\nlisten: "+tt.listen+"\n")
		got, err := LoadRelay(Options{File: path, Environment: nothing})
		if err != nil {
			t.Errorf("%s: %v", tt.listen, err)
			continue
		}
		if d := cmp.Diff(tt.want, got.Listen); d != "" {
			t.Errorf("%s: %s", tt.listen, d)
		}
	}
}

func TestConnectorDefaults(t *testing.T) {
	got, err := LoadConnector(Options{Environment: nothing})
	if err != nil {
		t.Fatal(err)
	}
	want := &Connector{
		StateDir:    defaultDir("ebbgate-connector"),
		Proxy:       Proxy{Mode: ProxySystem, Auth: []ProxyAuth{ProxyNTLM, ProxyBasic}},
		Log:         Log{Format: LogAuto},
		ResumeGrace: DefaultResumeGrace,
		Lanes:       Lanes{Max: DefaultLanes},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestConnectorRelay(t *testing.T) {
	lists := []string{"[a]", "[a, b:8443]", "a, b:8443", "\n  - a\n  - {host: b, http: 8080}"}
	for text, want := range map[string][]Endpoint{
		"relay.example.com":                  {{Host: "relay.example.com"}},
		"relay.example.com:8443":             {{Host: "relay.example.com", TLS: 8443}},
		`"[2001:db8::1]:8443"`:               {{Host: "2001:db8::1", TLS: 8443}},
		`"2001:db8::1"`:                      {{Host: "2001:db8::1"}},
		"{host: a, tls: 1, quic: 2}":         {{Host: "a", TLS: 1, QUIC: 2}},
		"{host: relay, quic: 65535}":         {{Host: "relay", QUIC: 65535}},
		"":                                   nil,
		"{}":                                 nil,
		"[]":                                 nil,
		"\n  host: 192.0.2.1\n  tls: 5":      {{Host: "192.0.2.1", TLS: 5}},
		"[a, b:8443]":                        {{Host: "a"}, {Host: "b", TLS: 8443}},
		"a, b:8443":                          {{Host: "a"}, {Host: "b", TLS: 8443}},
		"\n  - a\n  - {host: b, http: 8080}": {{Host: "a"}, {Host: "b", HTTP: 8080}},
	} {
		path := write(t, "connector.yaml", "state_dir: /x\nrelay: "+text+"\n")
		got, err := LoadConnector(Options{File: path, Environment: nothing})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(want, got.Relays); d != "" {
			t.Errorf("%s: %s", text, d)
		}
		if only := slices.Contains(lists, text); got.RelaysOnly != only {
			t.Errorf("%s: a list: %v", text, got.RelaysOnly)
		}
	}
	got, err := LoadConnector(Options{Environment: []string{"EBBGATE_CONNECTOR_RELAY=a:1, b", "EBBGATE_CONNECTOR_STATE_DIR=/x"}})
	if d := cmp.Diff([]Endpoint{{Host: "a", TLS: 1}, {Host: "b"}}, got.Relays); err != nil || d != "" {
		t.Errorf("%v: %s", err, d)
	}
}

func TestMerge(t *testing.T) {
	path := write(t, "connector.yaml", `
relay: {host: file.example.com, tls: 1}
state_dir: /file
carriers: [quic]
proxy: {mode: custom, url: "http://file:1", auth: [basic], bypass: [a, b, c]}
stores: [{name: file, address: file:1}]
`)
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	ConnectorFlags(fs)
	if err := fs.Parse([]string{"--proxy-auth=ntlm", "--state-dir=/flag", "--proxy-bypass", "x.example, y.example"}); err != nil {
		t.Fatal(err)
	}
	got, err := LoadConnector(Options{File: path, Flags: fs, Environment: []string{
		"EBBGATE_CONNECTOR_RELAY=environment.example.com:2",
		"EBBGATE_CONNECTOR_STATE_DIR=/environment",
		"EBBGATE_CONNECTOR_PROXY_AUTH=basic, ntlm",
		"EBBGATE_CONNECTOR_LANES_MAX=5",
		"EBBGATE_CONNECTOR_LANES_TOTAL=9",
		"EBBGATE_CONNECTOR_CARRIERS=",
		"EBBGATE_CONNECTOR_STORES=[{name: environment, address: 'environment:2'}]",
		"EBBGATE_CONNECTOR_PORT_443_TCP=tcp://10.0.0.1:443",
		"EBBGATE_RELAY=other.example.com",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := &Connector{
		Relays:   []Endpoint{{Host: "environment.example.com", TLS: 2}},
		StateDir: "/flag",
		Carriers: []Carrier{CarrierQUIC},
		Proxy: Proxy{
			Mode: ProxyCustom, URL: "http://file:1",
			Auth: []ProxyAuth{ProxyNTLM}, Bypass: []string{"x.example", "y.example"},
		},
		Stores: []Store{{
			Name: "environment", Host: "environment", Port: 2,
			Ingress: []IngressKind{IngressRelay, IngressClient},
		}},
		Log:         Log{Format: LogAuto},
		ResumeGrace: DefaultResumeGrace,
		Lanes:       Lanes{Max: 5, Total: 9},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A wrong value is blamed on the source that it came from, also inside a list
// that another source has overruled.
func TestMergeBlame(t *testing.T) {
	path := write(t, "connector.yaml", "proxy:\n  mode: none\n  auth:\n  - ntlm\n  - basic\nstate_dir: /x\n")
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	ConnectorFlags(fs)
	if err := fs.Parse([]string{"--proxy-auth=ntlm,digest"}); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConnector(Options{File: path, Flags: fs, Environment: []string{
		"EBBGATE_CONNECTOR_PROXY_MODE=sistem",
		"EBBGATE_CONNECTOR_STATEDIR=/x",
	}})
	want := `environment variable EBBGATE_CONNECTOR_STATEDIR: is no key of the configuration; did you mean EBBGATE_CONNECTOR_STATE_DIR?`
	if d := cmp.Diff(want, problems(t, path, err)); d != "" {
		t.Error(d)
	}
	_, err = LoadConnector(Options{File: path, Flags: fs, Environment: []string{"EBBGATE_CONNECTOR_PROXY_MODE=sistem"}})
	want = `environment variable EBBGATE_CONNECTOR_PROXY_MODE: proxy.mode: "sistem" is none of none, system, custom; did you mean "system"?
flag --proxy-auth: proxy.auth[1]: "digest" is none of ntlm, basic`
	if d := cmp.Diff(want, problems(t, path, err)); d != "" {
		t.Error(d)
	}
}

func TestUnreadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.yaml")
	_, err := LoadRelay(Options{File: path, Environment: nothing})
	if want := "relay.yaml: cannot be read: no such file or directory"; problems(t, path, err) != want {
		t.Errorf("got %q, want %q", problems(t, path, err), want)
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v is not os.ErrNotExist", err)
	}
	var e *Error
	if !errors.As(err, &e) || e.Code() != "config-unreadable" || e.Hop() != "config" {
		t.Errorf("code %s, hop %s", e.Code(), e.Hop())
	}
}

// What stands where a password could be is never repeated.
func TestNoSecretInErrors(t *testing.T) {
	for _, text := range []string{
		"proxy: {mode: custom, url: 'http://user:hunter2@proxy:8080'}",
		"proxy: {mode: custom, url: 'http://user:hunter2@pro xy:8080'}",
		"proxy: {mode: custom, url: 'user:hunter2@proxy:8080'}",
		"proxy: {password: hunter2}",
		"proxy: {password: {a: hunter2}}",
		"proxy: {mode: system, url: 'https://user:hunter2@proxy:8080'}",
	} {
		path := write(t, "connector.yaml", text)
		_, err := LoadConnector(Options{File: path, Environment: []string{"EBBGATE_CONNECTOR_PROXY_PASSWORD=hunter2"}})
		if got := problems(t, path, err); strings.Contains(got, "hunter2") {
			t.Errorf("%s: %s", text, got)
		}
		_, err = LoadConnector(Options{File: path, Environment: nothing})
		if got := problems(t, path, err); strings.Contains(got, "hunter2") {
			t.Errorf("%s: %s", text, got)
		}
	}
}
