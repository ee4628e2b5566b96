//go:build linux

package stores

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/client"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// stage is where a section of the page is played: a folder with the job's token, and a connector with the section's
// stores.
type stage struct {
	dir       string
	section   *section
	connector *rig.Connector
	node      string
	real      map[string]string
}

// need bounds a test and skips it where programs are missing.
func need(t *testing.T, packages map[string]string) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("NOT RUN: real programs take their time")
	}
	for program, name := range packages {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("*** NOT RUN: %s is missing: install Debian's package %s ***", program, name)
		}
	}
	t.Parallel() // much of it is waiting
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newStage starts a connector with a section's stores, at the addresses where they really are, and the section's
// forwards. Other stores of addrs are served as well.
func newStage(ctx context.Context, t *testing.T, title, carrier string, addrs map[string]string) *stage {
	t.Helper()
	at := page.sections[title]
	if at == nil {
		t.Fatalf("the page has no section %q", title)
	}
	s := &stage{dir: t.TempDir(), section: at, real: maps.Clone(page.real), node: fmt.Sprintf("%s-%08x", strings.ToLower(t.Name()), rand.Uint32())}
	if err := os.WriteFile(filepath.Join(s.dir, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, ".curlrc"), []byte("proxy-cacert = "+public+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stores []rig.Store
	for _, store := range at.stores {
		addr, ok := addrs[store.Name]
		if !ok {
			t.Fatalf("there is no server for store %q", store.Name)
		}
		if err := stands(s.real, store.Address, addr); err != nil {
			t.Fatal(err)
		}
		store.Address, store.Aliases = addr, slices.Clone(store.Aliases)
		for i, alias := range store.Aliases {
			store.Aliases[i] = replace(alias, s.real)
		}
		delete(addrs, store.Name)
		stores = append(stores, store)
	}
	for name, addr := range addrs {
		stores = append(stores, rig.Loopback(name, addr))
	}
	var err error
	if s.connector, err = rig.StartConnector(ctx, program(), rig.ConnectorOptions{
		Dir: filepath.Join(t.TempDir(), "connector"), Relay: relay.Address, Key: keys.Key1, Name: s.node,
		Carriers: []string{carrier}, Stores: stores,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.connector.Kill()
		if t.Failed() {
			t.Logf("output of the connector ends:\n%s", s.connector.Tail())
		}
	})
	s.online(ctx, t)
	for _, text := range at.forwards {
		s.forward(ctx, t, text)
	}
	for name, text := range at.files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(replace(text, s.real)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func program() rig.Program { return rig.Program{Path: filepath.Join(binDir, "ebbgate")} }

// online waits for the connector.
func (s *stage) online(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := relay.Await(ctx, gateway, s.node, rig.Online); err != nil {
		t.Fatal(err)
	}
}

// crash returns what kills the connector and starts it again: streams outlive a lost connector for minutes, unless it is
// back and is another process.
func (s *stage) crash(ctx context.Context, t *testing.T) func() {
	return func() {
		t.Helper()
		s.connector.Kill()
		if err := s.connector.Start(ctx); err != nil {
			t.Fatal(err)
		}
		s.online(ctx, t)
	}
}

// forward starts a forward as the page writes it, on a free port.
func (s *stage) forward(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	words := strings.Fields(text)
	listen := ""
	for i, word := range words[:len(words)-1] {
		if word == "--listen" {
			listen = words[i+1]
		}
	}
	if listen == "" {
		t.Fatalf("no --listen in %q", text)
	}
	p, err := proc.Start(s.shell("exec " + strings.Replace(text, listen, "127.0.0.1:0", 1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of the forward ends:\n%s", p.Tail())
		}
	})
	var ready struct{ Listen string }
	if err := p.Ready(ctx, &ready); err != nil {
		t.Fatal(err)
	}
	if err := stands(s.real, listen, ready.Listen); err != nil {
		t.Fatal(err)
	}
}

// shell is a shell that runs commands as the page writes them. Nothing of this program's environment gets there: it may
// name proxies.
func (s *stage) shell(text string) proc.Spec {
	return proc.Spec{
		Name: strings.TrimSpace(text), Path: "env", Dir: s.dir,
		Args: []string{
			"-i", "PATH=" + binDir + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C", "SSL_CERT_FILE=" + public,
			"sh", "-euc", replace(page.environment+text, s.real),
		},
	}
}

// play runs the section's commands and returns what they print.
func (s *stage) play(ctx context.Context, t *testing.T) string {
	t.Helper()
	if len(s.section.commands) == 0 {
		t.Fatalf("section %q has no commands", s.section.title)
	}
	// What the page says of one store holds for all.
	for _, store := range s.section.stores {
		test := strings.ReplaceAll(page.test, "corp/cache", gateway+"/"+store.Name)
		s.run(ctx, t, strings.ReplaceAll(test, "relay.yaml", relay.Config))
	}
	var out strings.Builder
	for _, text := range s.section.commands {
		s.claim(t, text)
		out.WriteString(s.run(ctx, t, text))
	}
	return out.String()
}

// claimed are ports that commands themselves open.
var claimed = regexp.MustCompile(`--store \S+=127\.0\.0\.1:(\d+)`)

// claim finds free ports for those that commands open.
func (s *stage) claim(t *testing.T, text string) {
	for _, port := range claimed.FindAllStringSubmatch(text, -1) {
		if s.real[port[1]] == "" {
			_, s.real[port[1]], _ = strings.Cut(rig.FreePort(t), ":")
		}
	}
}

// run runs commands that must succeed.
func (s *stage) run(ctx context.Context, t *testing.T, text string) string {
	t.Helper()
	out, err := proc.Run(ctx, s.shell(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// newDialer returns what programs in Go use.
func newDialer(t *testing.T) *client.Dialer {
	t.Helper()
	dialer := &client.Dialer{Relay: relay.Address, Token: token}
	t.Cleanup(func() {
		if err := dialer.Close(); err != nil {
			t.Errorf("the dialer: %v", err)
		}
	})
	return dialer
}

// port is the real port that stands for one of the page.
func (s *stage) port(written string) string { return net.JoinHostPort("127.0.0.1", s.real[written]) }
