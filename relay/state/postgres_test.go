package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/certs"
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

// pairOf makes two relays' states of one instance, which follow each other.
func pairOf(t *testing.T, url string) (a, b *State) {
	t.Helper()
	opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, url)}
	mustInit(t, opt)
	other := sibling(t, opt)
	mustInit(t, other)
	a, b = mustOpen(t, opt), mustOpen(t, other)
	follows(t, a, func([]JobEnd) {})
	follows(t, b, func([]JobEnd) {})
	return a, b
}

// TestAtOnce changes things at two relays at once: each change is made once, or
// says that the other one was first.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, sharedServer(t).Database(t))
	ctx := t.Context()
	must[Gateway](t)(a.CreateGateway(ctx, DefaultTenant, "corp"))
	const each = 15
	var done sync.WaitGroup
	var won atomic.Int32
	for i, s := range []*State{a, b} {
		pub := publicKey(t)
		done.Go(func() {
			for n := range each {
				own := fmt.Sprintf("n-%d-%d", i, n)
				must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", own, pub))
				must[Node](t)(s.RenewNode(ctx, DefaultTenant, "corp", own, 1, pub))
				switch _, _, err := s.CreateJob(ctx, DefaultTenant, fmt.Sprintf("job-%d", n), []string{"corp/x"}); {
				case err == nil:
					won.Add(1)
				default:
					wantError(t, err, ErrExists, "job-exists")
				}
				must[string](t)(s.RegenerateKey(ctx, DefaultTenant, "corp", Key1))
			}
		})
	}
	done.Wait()
	if won.Load() != each {
		t.Errorf("%d jobs were made", won.Load())
	}
	until(t, "both know the same", func() bool { return cmp.Equal(content(a), content(b)) })
	if n := len(a.Nodes(DefaultTenant, "corp")); n != 2*each {
		t.Errorf("%d nodes", n)
	}
	wantSame(t, content(reopen(t, b)), content(a))
}

// TestOtherRelays renews a node's certificate at two relays in turn, and ends a
// job at one that is told at the other.
func TestOtherRelays(t *testing.T) {
	t.Parallel()
	opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, sharedServer(t).Database(t))}
	a := stateIn(t, opt)
	other := sibling(t, opt)
	b := stateIn(t, other)
	ended := make(chan []JobEnd, 10)
	follows(t, b, func(list []JobEnd) { ended <- list })
	ctx := t.Context()
	must[Gateway](t)(a.CreateGateway(ctx, DefaultTenant, "corp"))
	must[Node](t)(a.RegisterNode(ctx, DefaultTenant, "corp", "n", publicKey(t)))
	// a is told of nothing here: a change looks by itself before it says no.
	first, second := publicKey(t), publicKey(t)
	must[Node](t)(b.RenewNode(ctx, DefaultTenant, "corp", "n", 1, first))
	must[Node](t)(a.RenewNode(ctx, DefaultTenant, "corp", "n", 1, first)) // the answer was lost
	must[Node](t)(a.RenewNode(ctx, DefaultTenant, "corp", "n", 2, second))
	_, err := b.RenewNode(ctx, DefaultTenant, "corp", "n", 1, publicKey(t))
	wantError(t, err, ErrRefused, "certificate-superseded")
	got := must[Node](t)(b.Node(DefaultTenant, "corp", "n"))
	if got.Counter != 2 || !bytes.Equal(got.PublicKey, second) || !bytes.Equal(got.PreviousKey, first) {
		t.Errorf("node: %+v", got)
	}

	key := must[string](t)(b.RegenerateKey(ctx, DefaultTenant, "corp", Key1))
	if !a.CatchUp(ctx) {
		t.Error("not caught up")
	}
	k := must[certs.Key](t)(certs.ParseKey(key))
	if _, _, err := a.CheckKey(k.GatewayID, k.Secret); err != nil {
		t.Error(err)
	}

	make := func(at *State, name string) {
		if _, _, err := at.CreateJob(ctx, DefaultTenant, name, []string{"corp/x"}); err != nil {
			t.Fatal(err)
		}
	}
	make(a, "copy")
	until(t, "the job at the other relay", func() bool { _, err := b.Job(DefaultTenant, "copy"); return err == nil })
	for again := range 2 { // also where it is made again at once
		if err := a.RevokeJob(ctx, DefaultTenant, "copy"); err != nil {
			t.Fatal(err)
		}
		if again == 0 {
			make(a, "copy")
		}
		make(b, fmt.Sprintf("own-%d", again)) // a change of its own does not hide it
		select {
		case got := <-ended:
			if !cmp.Equal(got, []JobEnd{{DefaultTenant, "copy"}}) {
				t.Errorf("ended: %v", got)
			}
		case <-time.After(90 * time.Second):
			t.Fatal("nobody was told that the job ended")
		}
	}
}

// TestInitCutOffShared cuts Init off after each of its steps: the next one
// finishes it or begins anew, with one instance in the end.
func TestInitCutOffShared(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	var steps []string
	opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, server.Database(t))}
	if err := (initializer{opt: opt, files: opt.files(), step: func(done string) { steps = append(steps, done) }}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 5 {
		t.Fatalf("steps: %v", steps)
	}
	for _, step := range steps {
		opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, server.Database(t))}
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = initializer{opt: opt, files: opt.files(), step: func(done string) {
				if done == step {
					runtime.Goexit()
				}
			}}.run(t.Context())
		}()
		<-over
		_, err := Open(t.Context(), opt)
		wantError(t, err, ErrMissing, "state-missing")
		mustInit(t, opt)
		s := mustOpen(t, opt)
		must[Gateway](t)(s.CreateGateway(t.Context(), DefaultTenant, "corp"))
		if left, _ := exists(opt.files().staged); left {
			t.Errorf("after %s: %s is left", step, opt.files().staged)
		}
	}
}

// TestDisagreeing opens where database, marker and key do not belong together.
func TestDisagreeing(t *testing.T) {
	t.Parallel()
	server := sharedServer(t)
	made := func() (Options, string) {
		url := server.Database(t)
		opt := Options{Dir: filepath.Join(t.TempDir(), "state"), Postgres: postgresAt(t, url)}
		mustInit(t, opt)
		s, err := Open(t.Context(), opt)
		if err != nil {
			t.Fatal(err)
		}
		must[Gateway](t)(s.CreateGateway(t.Context(), DefaultTenant, "corp"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return opt, url
	}
	refused := func(name string, opt Options, text string) {
		t.Run(name, func(t *testing.T) {
			for range 2 { // nothing is changed by that
				_, err := Open(t.Context(), opt)
				wantCorrupt(t, err, text)
				if err := Init(t.Context(), opt); !errors.Is(err, ErrExists) {
					t.Errorf("Init: %v", err)
				}
			}
		})
	}
	one, url := made()
	two, _ := made()
	other := one
	other.Postgres = two.Postgres
	refused("another instance's database", other, "seal")
	empty := one
	empty.Postgres = postgresAt(t, server.Database(t))
	refused("an empty database", empty, "tables")

	fresh := sibling(t, one) // with the key of one, and the database of two
	fresh.Postgres = two.Postgres
	wantCorrupt(t, Init(t.Context(), fresh), "is not the key of instance")
	lost := sibling(t, one) // the key is there, the database is new
	lost.Postgres = empty.Postgres
	wantCorrupt(t, Init(t.Context(), lost), "is empty")

	for name, sql := range map[string]string{
		"an edited row":            "UPDATE gateways SET key1 = key2",
		"a row that is gone":       "DELETE FROM gateways",
		"an edited revision":       "UPDATE instance SET revision = revision + 1",
		"an instance that is gone": "DELETE FROM instance",
		"a column more":            "ALTER TABLE gateways ADD COLUMN x TEXT NOT NULL DEFAULT ''",
		"a table that is gone":     "DROP TABLE tokens",
	} {
		opt, url := made()
		server.Exec(t, url, sql)
		refused(name, opt, "refused")
	}
	opt, newer := made()
	server.Exec(t, newer, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (3, true)")
	_, err := Open(t.Context(), opt)
	wantError(t, err, ErrInvalid, "state-newer")

	sqlite := options(t)
	mustInit(t, sqlite)
	sqlite.Postgres = one.Postgres
	_, err = Open(t.Context(), sqlite)
	wantCorrupt(t, err, "SQLite")
	wantError(t, Init(t.Context(), sqlite), ErrExists, "state-exists")
	file := one
	file.Postgres = config.Postgres{}
	_, err = Open(t.Context(), file)
	wantCorrupt(t, err, "state.db")

	// While it runs, nothing is built upon what somebody edited.
	s := mustOpen(t, one)
	follows(t, s, func([]JobEnd) {})
	before := content(s)
	server.Exec(t, url, "UPDATE instance SET revision = revision + 1")
	_, err = s.CreateGateway(t.Context(), DefaultTenant, "late")
	wantCorrupt(t, err, "seal")
	wantSame(t, content(s), before)
	server.Exec(t, url, "UPDATE instance SET revision = revision - 1")
	must[Gateway](t)(s.CreateGateway(t.Context(), DefaultTenant, "late"))
}

// BenchmarkFollow is how long a change takes, and then until the other relay has
// it.
func BenchmarkFollow(b *testing.B) {
	server := postgrestest.Start(b)
	at, err := config.ParsePostgres(server.Database(b), "")
	if err != nil {
		b.Fatal(err)
	}
	var both []*State
	dir := b.TempDir()
	for _, name := range []string{"a", "b"} {
		opt := Options{Dir: filepath.Join(dir, name), KeyFile: filepath.Join(dir, "key"), Postgres: at}
		if err := Init(b.Context(), opt); err != nil {
			b.Fatal(err)
		}
		s, err := Open(b.Context(), opt)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		both = append(both, s)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var over sync.WaitGroup
	over.Go(func() { both[1].Follow(ctx, func([]JobEnd) {}) })
	defer over.Wait()
	defer cancel()
	var change, follow time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		if _, err := both[0].CreateGateway(ctx, DefaultTenant, fmt.Sprintf("g-%d", i)); err != nil {
			b.Fatal(err)
		}
		change += time.Since(began)
		began = time.Now()
		for both[1].Revision() < both[0].Revision() {
			runtime.Gosched()
		}
		follow += time.Since(began)
	}
	b.ReportMetric(float64(change.Microseconds())/float64(b.N)/1000, "ms/change")
	b.ReportMetric(float64(follow.Microseconds())/float64(b.N)/1000, "ms/follow")
}
