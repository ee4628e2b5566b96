package activity

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// log is what a recorder logs.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

// recording is a recorder that runs.
type recording struct {
	*Recorder
	t    *testing.T
	log  *log
	path string
	stop func()
}

// record runs a recorder on a database until the test, or stop, ends it.
func record(t *testing.T, path string, change func(*Recorder)) *recording {
	t.Helper()
	r := &recording{t: t, log: &log{}, path: path}
	r.Recorder = New(Config{Path: path, Logger: slog.New(slog.NewTextHandler(r.log, nil)), Now: func() time.Time { return noon }})
	if change != nil {
		change(r.Recorder)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-over })
	t.Cleanup(r.stop)
	return r
}

func fresh(t *testing.T) *recording {
	return record(t, filepath.Join(t.TempDir(), "activity.db"), nil)
}

func (r *recording) record(halves ...Half) {
	r.t.Helper()
	if err := r.Record(r.t.Context(), halves); err != nil {
		r.t.Fatal(err)
	}
}

func (r *recording) list(q Query) []Run {
	r.t.Helper()
	if q.Tenant == "" {
		q.Tenant = "t"
	}
	page, err := r.List(r.t.Context(), q)
	if err != nil {
		r.t.Fatal(err)
	}
	return page.Runs
}

// until waits for a state of the record.
func (r *recording) until(what string, is func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(time.Minute); !is(); <-tick.C {
		if time.Now().After(late) {
			r.t.Fatal("not within a minute: " + what)
		}
	}
}

// half is one of stream n, which did well.
func half(s Side, n int) Half {
	h := Half{
		Side: s, Tenant: "t", Job: "j", Run: "r", Gateway: "g", Node: "n", Store: "s",
		Start: noon.Add(-time.Minute), End: noon, Read: 100, Written: 10, ReadCRC: 7, WrittenCRC: 8, Resumes: 1, Lanes: 2, Reason: "ok",
	}
	h.UUID[0], h.UUID[1] = byte(n>>8), byte(n)
	return h
}

func with(h Half, change func(*Half)) Half {
	change(&h)
	return h
}

func ended(h Half, reason string, remote bool) Half {
	return with(h, func(h *Half) { h.Reason, h.Remote = reason, remote })
}

// TestResults: what the halves of a stream come to, in both orders, and that a
// half counts once however often it comes.
func TestResults(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	i, n := half(Ingress, 1), half(Node, 1)
	later := 0
	next := func(h *Half) { h.End = noon.Add(time.Duration(later) * time.Second) } // newest first
	for _, tt := range []struct {
		name                string
		halves              []Half
		result, reason, hop string
	}{
		{"both well", []Half{i, n}, Complete, "ok", ""},
		{"ingress alone", []Half{i}, Complete, "ok", ""},
		{"node alone", []Half{n}, Complete, "ok", ""},
		{"store reset", []Half{ended(i, "store-reset", true), ended(n, "store-reset", false)}, Failed, "store-reset", "store"},
		{"who found out knows", []Half{ended(i, "internal", true), ended(n, "digest-mismatch", false)}, Failed, "digest-mismatch", "node"},
		{"job reset, node silent", []Half{ended(i, "job-reset", false)}, Failed, "job-reset", "job"},
		{"node vanished", []Half{ended(i, "lanes-lost", false)}, Lost, "lanes-lost", "node"},
		{"node restarted", []Half{ended(i, "end-restarted", true)}, Lost, "end-restarted", "node"},
		{"client vanished", []Half{ended(n, "lanes-lost", false)}, Lost, "lanes-lost", "ingress"},
		{"both cut off", []Half{ended(i, "lanes-lost", false), ended(n, "lanes-lost", false)}, Failed, "lanes-lost", "relay"},
		{"relay restarted", []Half{ended(n, "end-restarted", false)}, Lost, "end-restarted", "ingress"},
		{"one well, one not", []Half{i, ended(n, "lanes-lost", false)}, Failed, "lanes-lost", "relay"},
		{"a better reason", []Half{ended(i, "lanes-lost", false), ended(n, "node-stopped", false)}, Failed, "node-stopped", "node"},
		{"other bytes", []Half{i, with(n, func(h *Half) { h.Read++ })}, Differs, "ends-differ", "node"},
		{"other digest", []Half{i, with(n, func(h *Half) { h.WrittenCRC++ })}, Differs, "ends-differ", "node"},
	} {
		for _, backwards := range []bool{false, true} {
			later++
			run := fmt.Sprint(tt.name, backwards)
			var halves []Half
			for _, h := range tt.halves {
				h.Run = run
				next(&h)
				halves = append(halves, h)
			}
			if backwards {
				slices.Reverse(halves)
			}
			for _, h := range halves {
				r.record(h, h)
			}
			r.record(halves...)
			u := r.list(Query{})[0]
			if u.Run != run || u.Result != tt.result || u.Reason != tt.reason || u.Hop != tt.hop || u.Streams != 1 || u.Resumes != 1 || u.BytesRead < 100 || u.BytesRead > 101 {
				t.Errorf("%s: %+v", run, u)
			}
			if (len(u.Differences) == 1) != (tt.result == Differs) {
				t.Errorf("%s: differences %+v", run, u.Differences)
			}
		}
	}
}

// TestRunsAddUp: streams are added up by run, which is as bad as its worst one.
func TestRunsAddUp(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	r.record(half(Ingress, 1), half(Node, 2), half(Node, 1), ended(half(Ingress, 3), "lanes-lost", false), ended(half(Ingress, 4), "store-reset", true))
	other := with(half(Ingress, 1), func(h *Half) { h.Store = "s2"; h.Start = noon.Add(-time.Hour); h.End = noon.Add(-time.Minute) })
	r.record(other)
	want := []Run{
		{
			Job: "j", Run: "r", Gateway: "g", Node: "n", Store: "s", Start: noon.Add(-time.Minute), End: noon, Streams: 4, Failed: 1, Lost: 1, OneSided: 3,
			BytesRead: 400, BytesWritten: 40, Resumes: 4, Result: Lost, Reason: "lanes-lost", Hop: "node",
		},
		{
			Job: "j", Run: "r", Gateway: "g", Node: "n", Store: "s2", Start: other.Start, End: other.End, Streams: 1, OneSided: 1,
			BytesRead: 100, BytesWritten: 10, Resumes: 1, Result: Complete, Reason: "ok",
		},
	}
	if d := cmp.Diff(want, r.list(Query{})); d != "" {
		t.Error(d)
	}
	// the node was only cut off
	r.record(ended(half(Node, 3), "lanes-lost", false))
	want[0].OneSided, want[0].Lost, want[0].Failed, want[0].Result, want[0].Reason, want[0].Hop = 2, 0, 2, Failed, "lanes-lost", "relay"
	if d := cmp.Diff(want, r.list(Query{})); d != "" {
		t.Error(d)
	}
	difference := with(half(Node, 2), func(h *Half) { h.Side = Ingress; h.Read = 99; h.ReadCRC = 9 })
	r.record(difference)
	want[0].Result, want[0].Reason, want[0].Hop, want[0].Differ, want[0].BytesRead, want[0].OneSided = Differs, "ends-differ", "node", 1, 399, 1
	want[0].Differences = []Difference{{
		UUID:    "00020000-0000-0000-0000-000000000000",
		Ingress: Numbers{99, 10, "00000009", "00000008"}, Node: Numbers{100, 10, "00000007", "00000008"},
	}}
	if d := cmp.Diff(want, r.list(Query{})); d != "" {
		t.Error(d)
	}
	if !r.log.has("do not say the same") {
		t.Error("the difference is not in the log")
	}
}

// TestQueries: filters, tenants, time, pages.
func TestQueries(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	var halves []Half
	for n := range 20 {
		halves = append(halves, with(half(Ingress, n), func(h *Half) {
			h.Run = fmt.Sprint(n)
			h.End = noon.Add(time.Duration(n/2) * time.Minute) // two at a time
			h.Tenant = []string{"t", "u"}[n%2]
			h.Gateway = []string{"g1", "g2"}[n/2%2]
			h.Node, h.Job = "n"+fmt.Sprint(n/4%2), "j"+fmt.Sprint(n/8)
		}))
	}
	r.record(halves...)
	names := func(q Query) (list string) {
		for _, u := range r.list(q) {
			list += u.Run + " "
		}
		return list
	}
	for want, q := range map[string]Query{
		"18 16 14 12 10 8 6 4 2 0 ": {},
		"19 17 15 13 11 9 7 5 3 1 ": {Tenant: "u"},
		"16 12 8 4 0 ":              {Gateway: "g1"},
		"18 16 10 8 2 0 ":           {Node: "n0"},
		"14 12 10 8 ":               {Job: "j1"},
		"18 16 ":                    {Since: noon.Add(7*time.Minute + time.Second)},
		"10 ":                       {Node: "n0", Gateway: "g2", Job: "j1"},
		"":                          {Tenant: "x"},
	} {
		if got := names(q); got != want {
			t.Errorf("%+v: %q, want %q", q, got, want)
		}
	}
	var all string
	pages := 0
	for after := ""; pages == 0 || after != ""; pages++ {
		page, err := r.List(t.Context(), Query{Tenant: "t", Limit: 3, After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range page.Runs {
			all += u.Run + " "
		}
		after = page.Next
	}
	if all != names(Query{}) || pages != 4 {
		t.Errorf("%d pages: %q", pages, all)
	}
	if _, err := r.List(t.Context(), Query{Tenant: "t", After: "nowhere"}); err == nil {
		t.Error("a wrong place in the list is taken")
	}
}

// TestEveryQueryHasAnIndex: no list reads the whole table, or sorts it.
func TestEveryQueryHasAnIndex(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	r.record(half(Ingress, 1))
	for _, q := range []Query{
		{},
		{Gateway: "g"},
		{Node: "n"},
		{Job: "j"},
		{Gateway: "g", Node: "n", Job: "j"},
		{Since: noon},
		{Job: "j", Since: noon, After: "1.a"},
		{Node: "n", After: "1.a"},
	} {
		q.Tenant = "t"
		text, args, err := q.statement()
		if err != nil {
			t.Fatal(err)
		}
		rows, err := r.db.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var a, b, c int
			var plan string
			if err := rows.Scan(&a, &b, &c, &plan); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(plan, "SEARCH runs USING INDEX") {
				t.Errorf("%+v: %s", q, plan)
			}
		}
		_ = rows.Close()
	}
}

// TestAgain: records outlive the process; a half of before is known after.
func TestAgain(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	r.Note(half(Ingress, 1))
	r.stop()
	if err := r.Record(t.Context(), []Half{half(Ingress, 2)}); err == nil {
		t.Error("a recorder that stopped takes halves")
	}
	again := record(t, r.path, nil)
	again.record(half(Node, 1), half(Ingress, 1))
	if runs := again.list(Query{}); len(runs) != 1 || runs[0].Streams != 1 {
		t.Errorf("%+v", runs)
	}
}

// TestDamaged: whatever lies where the database should be is moved aside, and
// never keeps anything from being recorded.
func TestDamaged(t *testing.T) {
	t.Parallel()
	good := fresh(t)
	for n := range 500 {
		good.Note(half(Ingress, n))
	}
	good.record(half(Node, 1))
	good.stop()
	whole, err := os.ReadFile(good.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"text":      []byte(strings.Repeat("this is no database. ", 1000)),
		"cut":       whole[:len(whole)/3],
		"zeros":     append(append([]byte{}, whole[:4096]...), make([]byte, len(whole)-4096)...),
		"no header": append(make([]byte, 4096), whole[4096:]...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "activity.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			r := record(t, path, nil)
			for n := range 50 { // the damage may be found late
				if err := r.Record(t.Context(), []Half{half(Ingress, 1000+n)}); err != nil {
					t.Log(err)
				}
			}
			r.record(half(Ingress, 2000))
			if runs := r.list(Query{}); len(runs) != 1 || runs[0].Streams < 1 {
				t.Errorf("%+v", runs)
			}
			aside, _ := filepath.Glob(path + ".damaged-*Z")
			if len(aside) != 1 || !r.log.has("damaged") {
				t.Errorf("moved aside: %v", aside)
			}
		})
	}
}

// TestDeleted: a database that is deleted while the relay runs is made again.
func TestDeleted(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	r.record(half(Ingress, 1))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(r.path + suffix)
	}
	r.record(half(Ingress, 2))
	if runs := r.list(Query{}); len(runs) != 1 || runs[0].Streams != 1 {
		t.Errorf("%+v", runs)
	}
	if _, err := os.Stat(r.path); err != nil || !r.log.has("deleted behind") {
		t.Error(err)
	}
}

// TestUnavailable: where there can be no database, nothing waits, and it is there
// as soon as it can be.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	r := record(t, filepath.Join(dir, "activity.db"), nil)
	if _, err := r.List(t.Context(), Query{Tenant: "t"}); err == nil {
		t.Error("a list without a database")
	}
	r.Note(half(Ingress, 1))
	if err := r.Record(t.Context(), []Half{half(Ingress, 2)}); err == nil {
		t.Error("recorded without a database")
	}
	for n := range 2 * maxWaiting { // bounded
		r.Note(half(Ingress, n%100))
	}
	if n := r.held(); n > maxWaiting || n < maxWaiting/2 {
		t.Errorf("%d are held", n)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for r.Record(t.Context(), []Half{half(Ingress, 70000)}) != nil {
		<-tick.C
	}
	r.until("what was noted is written", func() bool { return r.list(Query{})[0].Streams == 101 })
}

// TestPrune: what is old goes, and what is too much.
func TestPrune(t *testing.T) {
	t.Parallel()
	r := record(t, filepath.Join(t.TempDir(), "activity.db"), func(r *Recorder) { r.most = 5 })
	for n := range 9 {
		r.record(with(half(Ingress, n), func(h *Half) {
			h.Run = fmt.Sprint(n)
			h.End = noon.Add(time.Duration(n-2) * DefaultKeep / 10)
		}))
	}
	r.stop()
	db, err := r.engine.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.count(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if err := r.prune(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if s, n := r.records.streams.Load(), r.records.runs.Load(); s != 5 || n != 5 {
		t.Errorf("%d streams and %d runs are left", s, n)
	}
	r.cfg.Now = func() time.Time { return noon.Add(2 * DefaultKeep) }
	if err := r.prune(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if err := r.count(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if s, n := r.records.streams.Load(), r.records.runs.Load(); s != 0 || n != 0 {
		t.Errorf("%d streams and %d runs are left", s, n)
	}
	if err := db.close(); err != nil {
		t.Fatal(err)
	}
}

// TestSumsEnd: who reports impossible numbers does not break the list.
func TestSumsEnd(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	for n := range 9 {
		var halves []Half
		for i := range maxBatch {
			halves = append(halves, with(half(Ingress, n*maxBatch+i), func(h *Half) { h.Read, h.Written = MaxBytes, MaxBytes }))
		}
		r.record(halves...)
	}
	if u := r.list(Query{})[0]; u.Streams != 9*maxBatch || u.BytesRead < 1<<62 || u.BytesWritten < 1<<62 {
		t.Errorf("%+v", u)
	}
}
