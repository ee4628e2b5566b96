package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// filled makes a state with some of everything and closes it.
func filled(t *testing.T) (Options, map[string]any) {
	t.Helper()
	opt := options(t)
	mustInit(t, opt)
	s := mustOpen(t, opt)
	ctx := t.Context()
	for _, gateway := range []string{"corp", "lab"} {
		must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, gateway))
		for i := range 3 {
			name := fmt.Sprintf("node-%d", i)
			must[Node](t)(s.RegisterNode(ctx, DefaultTenant, gateway, name, publicKey(t)))
			must[Node](t)(s.RenewNode(ctx, DefaultTenant, gateway, name, 1, publicKey(t)))
			if err := s.AnnounceStores(ctx, DefaultTenant, gateway, name, []StoreRow{{"erp-sql", 1433, []string{"sql01.corp.local:1433"}}}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 3 {
			if _, _, err := s.CreateJob(ctx, DefaultTenant, fmt.Sprintf("%s-job-%d", gateway, i), []string{gateway + "/*"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.RevokeJob(ctx, DefaultTenant, "lab-job-1"); err != nil {
		t.Fatal(err)
	}
	want := content(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return opt, want
}

// image is the files of a state.
type image map[string][]byte

func imageOf(t *testing.T, dir string) image {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(image)
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[f.Name()] = raw
	}
	return all
}

// write makes a fresh directory of the files.
func (m image) write(dir string) error {
	err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700))
	for name, raw := range m {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), raw, 0o600))
	}
	return err
}

func (m image) with(name string, raw []byte) image {
	all := maps.Clone(m)
	if raw == nil {
		delete(all, name)
	} else {
		all[name] = raw
	}
	return all
}

// newest is the version of the tables.
const newest = 2

// remembered makes the tables to compare with only once.
var remembered = func() schema {
	s := newSchema(migrations())
	once := sync.OnceValues(func() ([]string, error) { return s.tables(context.Background(), sqliteEngine{}, newest) })
	s.expected = func(ctx context.Context, e engine, version int64) ([]string, error) {
		if version != newest {
			return s.tables(ctx, e, version)
		}
		return once()
	}
	return s
}()

// attempt opens an image and says what came of it: an error of Open, what a state
// that opened knows, or what is wrong.
func (m image) attempt(t *testing.T, dir string, want ...map[string]any) (refused error, wrong error) {
	if err := m.write(dir); err != nil {
		return nil, err
	}
	opt := Options{Dir: dir}
	s, err := open(t.Context(), opt, remembered)
	if err != nil {
		var c *CorruptError
		if !errors.As(err, &c) {
			return err, fmt.Errorf("refused with %v (%T)", err, err)
		}
		if err := Init(t.Context(), opt); !errors.Is(err, ErrExists) {
			return err, fmt.Errorf("Init after a refusal: %v", err)
		}
		return err, nil
	}
	got := content(s)
	if err := s.Close(); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(want, func(w map[string]any) bool { return cmp.Equal(w, got) }) {
		return nil, fmt.Errorf("opened with other content: %s", cmp.Diff(want[0], got))
	}
	return nil, nil
}

// damages are tried until the time is over: thousands without -race, under which
// SQLite takes twenty times as long.
func tryDamages(t *testing.T, budget time.Duration, damages []damaging, want ...map[string]any) {
	t.Helper()
	seed := rand.Uint64()
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(damages), func(i, j int) { damages[i], damages[j] = damages[j], damages[i] })
	deadline := time.Now().Add(budget)
	var next, tried, refused atomic.Int64
	var done sync.WaitGroup
	for range 2 {
		dir := filepath.Join(scratch(t), "state")
		done.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(damages) || i >= 60 && time.Now().After(deadline) || t.Failed() {
					return
				}
				tried.Add(1)
				refusal, wrong := damages[i].image().attempt(t, dir, want...)
				if wrong != nil {
					t.Errorf("%s: %v", damages[i].name, wrong)
				}
				if refusal != nil {
					refused.Add(1)
				} else if damages[i].fatal {
					t.Errorf("%s: opened", damages[i].name)
				}
			}
		})
	}
	done.Wait()
	t.Logf("seed %d: %d of %d damages tried, %d refused, the others hit nothing that is used", seed, tried.Load(), len(damages), refused.Load())
	if refused.Load() == 0 {
		t.Error("no damage was seen")
	}
}

// scratch is a directory in memory where the system has one: many files are
// written, and none has to last.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ebbgate-state-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

type damaging struct {
	name  string
	fatal bool // must be refused
	image func() image
}

// flips are one change at each position of a file.
func flips(whole image, name string, fatal bool, step int) (list []damaging) {
	for at := rand.IntN(step); at < len(whole[name]); at += step {
		mask := byte(1) << rand.IntN(8)
		if rand.IntN(3) == 0 {
			mask = byte(rand.IntN(255) + 1)
		}
		list = append(list, damaging{fmt.Sprintf("%s: byte %d xor %02x", name, at, mask), fatal, func() image {
			raw := bytes.Clone(whole[name])
			raw[at] ^= mask
			return whole.with(name, raw)
		}})
	}
	return list
}

func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	opt, want := filled(t)
	whole := imageOf(t, opt.Dir)
	t.Run("small files", func(t *testing.T) {
		tryDamages(t, time.Second, append(flips(whole, nameKey, true, 1), flips(whole, nameMarker, true, 1)...), want)
	})
	t.Run("database", func(t *testing.T) {
		// Most of a small database is empty: half of the tries go to what is used.
		all := flips(whole, nameDatabase, false, 17)
		for _, d := range flips(whole, nameDatabase, false, 1) {
			var at int
			var mask byte
			if _, err := fmt.Sscanf(d.name, nameDatabase+": byte %d xor %02x", &at, &mask); err != nil {
				t.Fatal(err)
			}
			if whole[nameDatabase][at] != 0 && rand.IntN(3) == 0 {
				all = append(all, d)
			}
		}
		tryDamages(t, 4*time.Second, all, want)
	})
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	opt, want := filled(t)
	whole := imageOf(t, opt.Dir)
	var list []damaging
	add := func(name string, raw []byte, what string) {
		list = append(list, damaging{fmt.Sprintf("%s: %s", name, what), true, func() image { return whole.with(name, raw) }})
	}
	for _, name := range []string{nameDatabase, nameKey, nameMarker} {
		raw := whole[name]
		for _, n := range []int{0, 1, 15, 16, 50, 99, 100, 512, len(raw) / 2, len(raw) - 1} {
			if n < len(raw) {
				add(name, raw[:n], fmt.Sprintf("cut to %d bytes", n))
			}
		}
		add(name, make([]byte, len(raw)), "zeros")
		add(name, bytes.Repeat([]byte{0xff}, len(raw)), "ones")
	}
	for _, name := range []string{nameKey, nameMarker} {
		raw := whole[name]
		add(name, append(bytes.Clone(raw), '\n'), "a line more")
		add(name, bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")), "other ends of lines")
		add(name, bytes.Repeat([]byte("x"), 1<<10), "garbage")
	}
	for page := 4096; page < len(whole[nameDatabase]); page += 4096 {
		add(nameDatabase, whole[nameDatabase][:page], fmt.Sprintf("cut to %d bytes", page))
		zeroed := bytes.Clone(whole[nameDatabase])
		clear(zeroed[page : page+4096])
		add(nameDatabase, zeroed, fmt.Sprintf("page at %d is zero", page))
	}
	tryDamages(t, 3*time.Second, list, want)
}

func TestMissingAndForeignFiles(t *testing.T) {
	t.Parallel()
	opt, want := filled(t)
	other, _ := filled(t)
	own, foreign := imageOf(t, opt.Dir), imageOf(t, other.Dir)
	delete(own, "state.lock")
	dir := filepath.Join(t.TempDir(), "state")
	names := []string{nameDatabase, nameKey, nameMarker}
	for mask := range 1 << len(names) {
		missing, swapped := maps.Clone(own), maps.Clone(own)
		var those []string
		for i, name := range names {
			if mask&(1<<i) != 0 {
				those = append(those, name)
				delete(missing, name)
				swapped[name] = foreign[name]
			}
		}
		if len(those) == 0 || len(those) == len(names) {
			continue
		}
		refused, wrong := missing.attempt(t, dir, want)
		if refused == nil || wrong != nil {
			t.Errorf("without %v: %v, %v", those, refused, wrong)
		} else {
			for _, name := range those {
				if !strings.Contains(refused.Error(), name) {
					t.Errorf("%q does not name %s", refused, name)
				}
			}
		}
		if after := imageOf(t, dir); !cmp.Equal(missing.with("state.lock", []byte{}), after) {
			t.Errorf("without %v: files were changed", those)
		}
		if refused, wrong = swapped.attempt(t, dir, want); refused == nil || wrong != nil {
			t.Errorf("with another's %v: %v, %v", those, refused, wrong)
		}
	}
	if _, wrong := own.attempt(t, dir, want); wrong != nil {
		t.Errorf("untouched: %v", wrong)
	}
	if err := (image{}).write(dir); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), Options{Dir: dir})
	wantError(t, err, ErrMissing, "state-missing")
	// A journal alone is something, too.
	if refused, wrong := (image{nameDatabase + "-journal": []byte("x")}).attempt(t, dir, want); refused == nil || wrong != nil {
		t.Errorf("a journal alone: %v, %v", refused, wrong)
	}
}

func TestOlderDatabase(t *testing.T) {
	opt, want := filled(t)
	backup := imageOf(t, opt.Dir)
	s := mustOpen(t, opt)
	must[Gateway](t)(s.CreateGateway(t.Context(), DefaultTenant, "late"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	restored := imageOf(t, opt.Dir).with(nameDatabase, backup[nameDatabase])
	if refused, wrong := restored.attempt(t, opt.Dir, want); refused != nil || wrong != nil {
		t.Errorf("a restored database: %v, %v", refused, wrong)
	}
}

// TestHotJournal opens what a relay leaves that dies in the middle of a write.
func TestHotJournal(t *testing.T) {
	t.Parallel()
	opt, want := filled(t)
	db, err := openDatabase(filepath.Join(opt.Dir, nameDatabase), "rw")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, sql := range []string{"PRAGMA cache_size = 2", "BEGIN IMMEDIATE", "UPDATE nodes SET stores = 'x'", "UPDATE jobs SET allow = 'x'", "UPDATE gateways SET key1 = 'x'"} {
		if _, err := db.Exec(sql); err != nil {
			t.Fatal(err)
		}
	}
	crashed := imageOf(t, opt.Dir)
	const journal = nameDatabase + "-journal"
	if before := crashed[journal]; len(before) == 0 || before[0] == 0 {
		t.Fatal("the journal is not hot")
	}
	dir := filepath.Join(t.TempDir(), "state")
	if refused, wrong := crashed.attempt(t, dir, want); refused != nil || wrong != nil {
		t.Fatalf("not rolled back: %v, %v", refused, wrong)
	}
	if _, err := os.Lstat(filepath.Join(dir, journal)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the journal is still there: %v", err)
	}
	if refused, wrong := crashed.with(journal, nil).attempt(t, dir, want); refused == nil || wrong != nil {
		t.Errorf("the journal was lost: %v, %v", refused, wrong)
	}
	list := flips(crashed, journal, false, 7)
	for n := 0; n < len(crashed[journal]); n += 500 {
		list = append(list, damaging{fmt.Sprintf("journal cut to %d bytes", n), false, func() image {
			return crashed.with(journal, crashed[journal][:n])
		}})
	}
	tryDamages(t, 2*time.Second, list, want)
}
