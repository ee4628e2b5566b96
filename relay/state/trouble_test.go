package state

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

func TestOpenTwice(t *testing.T) {
	opt := options(t)
	mustInit(t, opt)
	var mu sync.Mutex
	var opened []*State
	var done sync.WaitGroup
	for range 8 {
		done.Go(func() {
			s, err := Open(t.Context(), opt)
			if err != nil {
				wantError(t, err, ErrInUse, "state-in-use")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, s)
		})
	}
	done.Wait()
	if len(opened) != 1 {
		t.Fatalf("%d are open at once", len(opened))
	}
	must[Gateway](t)(opened[0].CreateGateway(t.Context(), DefaultTenant, "corp"))
	if err := opened[0].Close(); err != nil {
		t.Fatal(err)
	}
	if got := mustOpen(t, opt).Gateways(DefaultTenant); len(got) != 1 {
		t.Errorf("gateways: %v", got)
	}
}

func TestInitTwice(t *testing.T) {
	opt := options(t)
	var done sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 8 {
		done.Go(func() {
			err := Init(t.Context(), opt)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			}
		})
	}
	done.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	mustOpen(t, opt)
}

// TestDiskFull fills a small disk. Changes fail, reads go on, and with room again
// changes are made without a restart.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "3m")
	opt := Options{Dir: filepath.Join(disk, "state")}
	mustInit(t, opt)
	s := mustOpen(t, opt)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	for round := range 3 {
		filler := filepath.Join(disk, "filler")
		fill(t, filler)
		before := content(s)
		for i := range 5 {
			_, err := s.CreateGateway(ctx, DefaultTenant, fmt.Sprintf("more-%d-%d", round, i))
			wantError(t, err, ErrUnavailable, "state-unavailable")
			if !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("%q does not say that the disk is full", err)
			}
			_, err = s.RegenerateKey(ctx, DefaultTenant, "corp", Key1)
			wantError(t, err, ErrUnavailable, "state-unavailable")
			wantSame(t, content(s), before)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, fmt.Sprintf("room-%d", round)))
	}
	before := content(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fill(t, filepath.Join(disk, "filler")) // opening needs no room
	wantSame(t, content(mustOpen(t, opt)), before)
}

// TestInitDiskFull makes state where there is no room: nothing is left, and with
// room it is made.
func TestInitDiskFull(t *testing.T) {
	for _, size := range []string{"80k", "100k"} {
		disk := smallDisk(t, size)
		opt := Options{Dir: filepath.Join(disk, "state")}
		err := Init(t.Context(), opt)
		if err == nil {
			t.Errorf("%s: made on a disk without room", size)
			continue
		}
		wantError(t, err, ErrUnavailable, "state-unavailable")
		_, err = Open(t.Context(), opt)
		wantError(t, err, ErrMissing, "state-missing")
		if left, _ := filepath.Glob(filepath.Join(opt.Dir, "*")); len(left) > 1 {
			t.Errorf("%s: left behind: %v", size, left)
		}
	}
	disk := smallDisk(t, "3m")
	opt := Options{Dir: filepath.Join(disk, "state")}
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	wantError(t, Init(t.Context(), opt), ErrUnavailable, "state-unavailable")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	mustInit(t, opt)
	mustOpen(t, opt)
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// TestLocked has another program hold the database, as a careless backup does.
func TestLocked(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	// The last one is a reader in the middle of its work: COMMIT itself fails.
	for i, sql := range []string{"BEGIN EXCLUSIVE", "BEGIN IMMEDIATE", "BEGIN; SELECT count(*) FROM nodes"} {
		other, err := openDatabase(s.files.database, "rw")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Exec(sql); err != nil {
			t.Fatal(err)
		}
		if _, err := s.db.Exec("PRAGMA busy_timeout = 20"); err != nil {
			t.Fatal(err)
		}
		before := content(s)
		_, err = s.CreateGateway(ctx, DefaultTenant, "lab")
		wantError(t, err, ErrUnavailable, "state-unavailable")
		if !strings.Contains(err.Error(), "locked") {
			t.Errorf("%q does not say that the database is locked", err)
		}
		wantSame(t, content(s), before)
		if _, err := other.Exec("ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, fmt.Sprintf("after-%d", i)))
	}
}

// TestReadOnly is a directory that the relay cannot write to. Root can, so the
// database says it.
func TestReadOnly(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	if _, err := s.db.Exec("PRAGMA query_only = 1"); err != nil {
		t.Fatal(err)
	}
	_, err := s.CreateGateway(ctx, DefaultTenant, "corp")
	wantError(t, err, ErrUnavailable, "state-unavailable")
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp")) // on a new connection
}

// TestChangedBehind has another program change the database while it is open.
func TestChangedBehind(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))

	// With the key, as another relay would: the change is seen and built upon.
	twin := &State{opt: s.opt, files: s.files, engine: s.engine, mark: s.mark, keys: s.keys, turn: make(chan struct{}, 1)}
	var err error
	if twin.db, err = openDatabase(s.files.database, "rw"); err != nil {
		t.Fatal(err)
	}
	defer twin.db.Close()
	twin.current.Store(s.current.Load())
	must[Gateway](t)(twin.CreateGateway(ctx, DefaultTenant, "theirs"))
	_, err = s.CreateGateway(ctx, DefaultTenant, "theirs")
	wantError(t, err, ErrExists, "gateway-exists")
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "ours"))
	must[string](t)(twin.RegenerateKey(ctx, DefaultTenant, "corp", Key1))
	if got := len(twin.Gateways(DefaultTenant)); got != 3 {
		t.Errorf("the twin sees %d gateways", got)
	}

	// Without it: nothing is written on top.
	tamper(t, s.opt.Dir, "UPDATE instance SET revision = revision + 1")
	before := content(s)
	for range 2 {
		_, err = s.CreateGateway(ctx, DefaultTenant, "late")
		wantCorrupt(t, err, "seal")
		wantSame(t, content(s), before)
	}
}

// TestConcurrent changes and reads at once. A reader never sees half a change.
func TestConcurrent(t *testing.T) { onEngines(t, testConcurrent) }

func testConcurrent(t *testing.T, opt Options) {
	t.Parallel()
	if !opt.Postgres.Set() {
		opt.Dir = filepath.Join(scratch(t), "state")
	}
	mustInit(t, opt)
	s := mustOpen(t, opt)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const writers, each = 8, 6
	for i := range writers {
		must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, fmt.Sprintf("g-%d", i)))
	}
	if _, _, err := s.CreateJob(ctx, DefaultTenant, "contended", []string{"corp/x"}); err != nil {
		t.Fatal(err)
	}
	var readers, done sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			last := int64(0)
			for look := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-look.C { // without it they take the machine
				now := s.current.Load()
				if now.instance.revision() < last {
					t.Errorf("revision %d after %d", now.instance.revision(), last)
				}
				last = now.instance.revision()
				for key, j := range now.jobs {
					if token := now.tokens[j.ID]; token == nil || token.revoked != j.Revoked {
						t.Errorf("job %v is half changed", key)
					}
				}
				for _, g := range s.Gateways(DefaultTenant) {
					s.Nodes(g.Tenant, g.Name)
				}
			}
		})
	}
	pub := publicKey(t)
	var wins sync.Map
	for w := range writers {
		gateway := fmt.Sprintf("g-%d", w)
		done.Go(func() {
			for i := range each {
				name := fmt.Sprintf("n-%d", i)
				must[Node](t)(s.RegisterNode(ctx, DefaultTenant, gateway, name, pub))
				must[Node](t)(s.RenewNode(ctx, DefaultTenant, gateway, name, 1, pub))
				if _, _, err := s.CreateJob(ctx, DefaultTenant, fmt.Sprintf("job-%d", i), []string{"corp/x"}); err == nil {
					if _, twice := wins.LoadOrStore(i, w); twice {
						t.Errorf("job %d was made twice", i)
					}
				}
				if err := s.RevokeJob(ctx, DefaultTenant, "contended"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	cancel()
	readers.Wait()
	if got := len(s.Jobs(DefaultTenant)); got != each+1 {
		t.Errorf("%d jobs", got)
	}
	before := content(s)
	after := reopen(t, s)
	wantSame(t, content(after), before)
	for w := range writers {
		if got := len(after.Nodes(DefaultTenant, fmt.Sprintf("g-%d", w))); got != each {
			t.Errorf("%d nodes", got)
		}
	}
}

// TestMigration opens state that an older program made.
func TestMigration(t *testing.T) {
	t.Parallel()
	opt, want := filled(t)
	first, err := embedded.ReadFile("migrations/00001_identity.sql")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{
		"00001_identity.sql": {Data: first},
		"00002_relays.sql":   {Data: must[[]byte](t)(embedded.ReadFile("migrations/00002_relays.sql"))},
		"00003_more.sql": {Data: []byte(`-- +goose Up
ALTER TABLE nodes ADD COLUMN runs BIGINT NOT NULL DEFAULT 0;
CREATE TABLE more (x TEXT NOT NULL PRIMARY KEY);
-- +goose Down
DROP TABLE more;
`)},
	}
	s, err := open(t.Context(), opt, newSchema(files))
	if err != nil {
		t.Fatal(err)
	}
	if got := must[Node](t)(s.Node(DefaultTenant, "corp", "node-0")); got.Counter != 1 {
		t.Errorf("node: %+v", got)
	}
	n := s.current.Load().nodes[gatewayKey{DefaultTenant, "corp"}]["node-0"]
	if n.row.columns["runs"] != int64(0) {
		t.Errorf("row: %v", n.row.columns)
	}
	must[Node](t)(s.RenewNode(t.Context(), DefaultTenant, "corp", "node-0", 2, publicKey(t)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), opt) // the older program again
	wantError(t, err, ErrInvalid, "state-newer")
	s, err = open(t.Context(), opt, newSchema(files))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(content(s)) != len(want) {
		t.Error("rows went or came")
	}
}
