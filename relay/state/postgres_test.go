package state

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// shared is one server for the tests that do not harm it.
var shared = struct {
	sync.Mutex
	server *postgrestest.Server
}{}

func sharedServer(t *testing.T) *postgrestest.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		shared.server = postgrestest.New(t)
	}
	return shared.server
}

func closeShared() {
	if shared.server != nil {
		shared.server.Close()
	}
}

func postgresAt(t *testing.T, url string) config.Postgres {
	t.Helper()
	at, err := config.ParsePostgres(url, "")
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// sibling are the options of another relay of the same instance: a directory of
// its own, with the same key.
func sibling(t *testing.T, opt Options) Options {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(opt.files().key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, nameKey), key, 0o600); err != nil {
		t.Fatal(err)
	}
	opt.Dir = dir
	return opt
}

// follows runs Follow until the test ends.
func follows(t *testing.T, s *State, ended func([]JobEnd)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); s.Follow(ctx, ended) }()
	t.Cleanup(func() { cancel(); <-over })
}

// TestTwoRelays makes an instance, and joins it from another directory.
func TestTwoRelays(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, server.Database(t))}
	mustInit(t, opt)
	wantError(t, Init(t.Context(), opt), ErrExists, "state-exists")
	a := mustOpen(t, opt)
	if there, _ := exists(opt.files().database); there {
		t.Error("there is a file of SQLite")
	}

	alone := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: opt.Postgres}
	err := Init(t.Context(), alone) // without the key
	wantError(t, err, ErrExists, "state-exists")
	if !strings.Contains(err.Error(), a.Instance()) || strings.Contains(err.Error(), postgrestest.Password) {
		t.Error(err)
	}
	_, err = Open(t.Context(), alone)
	wantError(t, err, ErrMissing, "state-missing")

	other := sibling(t, opt)
	_, err = Open(t.Context(), other)
	wantError(t, err, ErrMissing, "state-missing")
	must[Gateway](t)(a.CreateGateway(t.Context(), DefaultTenant, "corp"))
	mustInit(t, other)
	b := mustOpen(t, other)
	wantSame(t, content(b), content(a))

	follows(t, a, func([]JobEnd) {})
	follows(t, b, func([]JobEnd) {})
	must[Gateway](t)(b.CreateGateway(t.Context(), DefaultTenant, "branch"))
	until(t, "the gateway at the other relay", func() bool { return len(a.Gateways(DefaultTenant)) == 2 })
	must[Node](t)(a.RegisterNode(t.Context(), DefaultTenant, "branch", "n", publicKey(t)))
	if !b.CatchUp(t.Context()) {
		t.Error("not caught up")
	}
	must[Node](t)(b.Node(DefaultTenant, "branch", "n"))
	wantSame(t, content(b), content(a))
	wantSame(t, content(reopen(t, b)), content(a))
}
