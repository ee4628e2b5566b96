//go:build linux

package stores

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// What TestMain brings up for all tests.
var (
	page   *recipes   // docs/stores.md
	relay  *rig.Relay // nil with -short
	binDir string     // of ebbgate
	keys   rig.Keys   // of the gateway
	token  string     // of the job
	public string     // file with the relay's public certificate
)

// The names that docs/stores.md uses.
const (
	gateway = "corp"
	job     = "nightly-copy"
)

func TestMain(m *testing.M) {
	s3Main()
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		return m.Run() // each test says so and skips
	}
	dir, err := os.MkdirTemp("", "ebbgate-stores-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	if page, err = readRecipes(filepath.Join("..", "..", "docs", "stores.md")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary, remove, err := rig.Build(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	binDir = filepath.Dir(binary)
	if err := startRelay(ctx, rig.Program{Path: binary}, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer relay.Kill()
	code := m.Run()
	if err := relay.Stop(20 * time.Second); err != nil {
		fmt.Fprintf(os.Stderr, "the relay does not end well: %v\n", err)
		code = max(code, 1)
	}
	if code != 0 {
		fmt.Printf("output of the relay ends:\n%s\n", relay.Tail())
	}
	return code
}

// startRelay starts a relay with all ways in that the page asks for, and makes its gateway and its job.
func startRelay(ctx context.Context, p rig.Program, dir string) (err error) {
	// A public certificate, as far as the jobs of this page know.
	public = filepath.Join(dir, "public.pem")
	key := filepath.Join(dir, "public.key")
	if err := selfSigned("127.0.0.1", public, key); err != nil {
		return err
	}
	if relay, err = rig.StartRelay(ctx, p, rig.RelayOptions{
		Dir: dir, Flags: []string{"--drain-timeout", "1s"}, Config: map[string]any{
			"ingress": page.configuration(),
			"tls":     map[string]any{"cert": public, "key": key},
		},
	}); err != nil {
		return err
	}
	if err := page.bind(relay); err != nil {
		relay.Kill()
		return err
	}
	if keys, err = relay.CreateGateway(ctx, gateway); err == nil {
		token, err = createJob(ctx, dir)
	}
	if err != nil {
		relay.Kill()
	}
	return err
}

// createJob makes the job by the page's commands and returns its token.
func createJob(ctx context.Context, dir string) (string, error) {
	s := &stage{dir: dir, real: page.real}
	for _, text := range page.sections[""].commands {
		if _, err := proc.Run(ctx, s.shell(text)); err != nil {
			return "", err
		}
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	return strings.TrimSpace(string(token)), err
}
