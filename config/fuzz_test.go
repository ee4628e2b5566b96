package config

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
)

// FuzzConfig: whatever a file says, it is either refused with places that
// exist, or every value is what the types promise.
func FuzzConfig(f *testing.F) {
	for _, name := range []string{"relay.yaml", "connector.yaml"} {
		text, err := os.ReadFile(reference(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{
		"", "\n", "---\n---\n", "a: &a [*a]", "? [a]\n: b", "hostname: a\nlisten: {tls: ''}", "%YAML 1.1\n---\nhostname: a",
		"hostname: |\n  a\n", "relay: {host: a, tls: 0x10}", "stores: [[]]", "stores: [~]", "carriers: auto",
		"hostname: a\ningress: {connect: '127.0.0.1:1', ports: [{listen: '[::1]:2', target: a/b, job: c}]}",
		"\xef\xbb\xbfhostname: a\r\n", "a: b: c", "\thostname: a", "hostname: !!str a", "hostname: \"\\u0000\"",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := 1 // as YAML counts them
		for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			lines += bytes.Count(text, []byte(end))
		}
		if relay, err := decodeRelay(text); err != nil {
			checkError(t, err, lines)
		} else {
			checkRelay(t, relay)
		}
		if connector, err := decodeConnector(text); err != nil {
			checkError(t, err, lines)
		} else {
			checkConnector(t, connector)
		}
	})
}

func decodeRelay(text []byte) (*Relay, error) {
	var raw rawRelay
	m, err := merge([]*source{fileSource("f", text, reflect.TypeOf(raw))}, "f", &raw)
	if err != nil {
		return nil, err
	}
	return raw.check(m)
}

func decodeConnector(text []byte) (*Connector, error) {
	var raw rawConnector
	m, err := merge([]*source{fileSource("f", text, reflect.TypeOf(raw))}, "f", &raw)
	if err != nil {
		return nil, err
	}
	return raw.check(m)
}

func checkError(t *testing.T, err error, lines int) {
	e, ok := err.(*Error)
	if !ok || len(e.Problems) == 0 {
		t.Fatalf("error %#v", err)
	}
	for _, p := range e.Problems {
		line := 1
		if p.Where != "f" {
			if _, err := fmt.Sscanf(p.Where, "f:%d", &line); err != nil {
				t.Fatalf("where %q", p.Where)
			}
		}
		if line < 1 || line > lines {
			t.Fatalf("%s, but there are %d lines", p, lines)
		}
		if s := p.String(); strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("control character in %q", s)
		}
	}
}

func checkListen(t *testing.T, l Listen) {
	if l == "" {
		return
	}
	if _, port, err := net.SplitHostPort(l.String()); err != nil || !validPort(port) {
		t.Fatalf("listen %q", l)
	}
}

func checkRelay(t *testing.T, r *Relay) {
	if !validHost(r.Hostname) || r.Listen.TLS == "" || r.State.Dir == "" || r.State.KeyFile == "" ||
		(r.TLS.Cert == "") != (r.TLS.Key == "") {
		t.Fatalf("%+v", r)
	}
	checkListen(t, r.Listen.TLS)
	checkListen(t, r.Listen.QUIC)
	for _, d := range []RelayDoor{r.Ingress.Connect, r.Ingress.Socks5} {
		checkListen(t, d.Listen)
		if d.Listen != "" && !d.Listen.loopback() && !d.TLS && len(d.AllowFrom) == 0 {
			t.Fatalf("%+v", d)
		}
	}
	checkListen(t, r.Metrics)
	for _, p := range r.Ingress.Ports {
		checkListen(t, p.Listen)
		if !p.Listen.loopback() && p.ClientCA == "" && len(p.AllowFrom) == 0 || !validName(p.Gateway) || !validName(p.Store) || !validName(p.Job) {
			t.Fatalf("port %+v", p)
		}
	}
}

func checkConnector(t *testing.T, c *Connector) {
	for _, e := range c.Relays {
		if !validHost(e.Host) || e.TLS < 0 || e.TLS > 65535 || e.QUIC < 0 || e.QUIC > 65535 {
			t.Fatalf("relay %+v", e)
		}
	}
	if c.StateDir == "" || c.Proxy.Mode == "" || (c.Proxy.Mode == ProxyCustom) != (c.Proxy.URL != "") || len(c.Proxy.Auth) == 0 {
		t.Fatalf("%+v", c)
	}
	names := make(map[string]bool)
	for _, s := range c.Stores {
		if !validName(s.Name) || names[s.Name] || !validHost(s.Host) || s.Port < 1 || s.Port > 65535 || len(s.Ingress) == 0 {
			t.Fatalf("store %+v", s)
		}
		names[s.Name] = true
	}
}
