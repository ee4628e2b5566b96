package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		if err := run(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestBench measures two rows for a moment and reads what it wrote.
func TestBench(t *testing.T) {
	o := options{
		only: []string{"lan"}, rows: []string{"direct", "naive", "chisel"}, seconds: 50 * time.Millisecond,
		rounds: 1, idle: 100, workers: 4, out: t.TempDir(), quiet: true,
	}
	t.Setenv("PATH", "")                    // no chisel
	t.Setenv("GORACE", "atexit_sleep_ms=0") // each load would wait for a second at its end
	if err := bench(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(o.out, "bench-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	body, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(body, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Sections) != 1 {
		t.Fatalf("sections: %s", body)
	}
	rows := r.Sections[0].Rows
	if len(rows) != 3 || rows[2].NotRun == "" {
		t.Fatalf("rows: %s", body)
	}
	for _, row := range rows[:2] {
		if len(row.Errors) > 0 {
			t.Errorf("%s: %v", row.Name, row.Errors)
		}
		for _, m := range measures {
			samples := row.Samples[m.name]
			want := o.rounds
			if m.kind == kindIdle {
				want = 1
			}
			if len(samples) != want {
				t.Errorf("%s, %s: %d samples, want %d", row.Name, m.name, len(samples), want)
				continue
			}
			s := samples[0]
			bulk := m.kind == kindUp || m.kind == kindDown
			if (bulk && s.MBps < 1) || (m.kind == kindRTT && (s.P50 <= 0 || s.P99 < s.P50)) || (m.kind == kindDials && s.PerSecond < 1) {
				t.Errorf("%s, %s: %+v", row.Name, m.name, s)
			}
		}
	}
	naive := rows[1]
	if used := naive.Samples["up8"][0].CPU; used["relay"]+naive.Samples["up1"][0].CPU["relay"] <= 0 {
		t.Errorf("the naive pipe used no CPU: %+v", naive.Samples)
	}
	if m := naive.Samples["idle"][0].IdleMemory; m["relay"] < 1000 || m["node"] < 1000 {
		t.Errorf("the naive pipe's idle streams weigh %+v bytes", m)
	}
}

func TestFamily(t *testing.T) {
	all := map[int]process{1: {parent: 0}, 10: {parent: 1}, 11: {parent: 10}, 12: {parent: 11}, 20: {parent: 1}}
	if got := family(all, 10); len(got) != 3 || got[0] != 10 || got[1] != 11 || got[2] != 12 {
		t.Fatalf("family of 10: %v", got)
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values         []float64
		middle, spread float64
	}{
		{nil, 0, 0},
		{[]float64{3}, 3, 0},
		{[]float64{5, 1}, 3, 2},
		{[]float64{9, 1, 4}, 4, 4},
	} {
		if m, s := median(test.values); m != test.middle || s != test.spread {
			t.Errorf("median(%v) = %v ± %v", test.values, m, s)
		}
	}
}

// TestWAN measures a row on the long way for a moment.
func TestWAN(t *testing.T) {
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	o := options{
		only: []string{"wan"}, rows: []string{"naive"}, losses: []float64{0.01}, congestion: []string{onlyCubic},
		seconds: 3 * slot, ramp: slot, wanRounds: 1, quiet: true,
	}
	r, err := measureAll(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.NotRun) > 0 {
		t.Skip(r.NotRun)
	}
	for _, row := range r.Sections[0].Rows {
		if row.NotRun != "" || len(row.Errors) > 0 {
			t.Errorf("%s: %s %v", row.Name, row.NotRun, row.Errors)
		}
		for _, m := range []string{"up1", "down1"} {
			if len(row.Samples[m]) != 1 {
				t.Errorf("%s, %s: %+v", row.Name, m, row.Samples[m])
				continue
			}
			s := row.Samples[m][0]
			if s.MBps > 26 || len(s.Course) != 4 || (s.P50 != 0 && s.P50 < longRTT) {
				t.Errorf("%s, %s: %+v", row.Name, m, s)
			}
		}
		if s := row.Samples["dial"]; len(s) != 1 || s[0].P50 < 2*longRTT {
			t.Errorf("%s, dial: %+v", row.Name, s)
		}
	}
}

func TestTally(t *testing.T) {
	flow := tally{Slots: []int64{1, 2, 3e6, 1e6}}
	if got := flow.perSecond(2 * slot); got != 8e6 {
		t.Errorf("after half a second: %v", got)
	}
	if got := flow.perSecond(time.Minute); got != 0 {
		t.Errorf("after all of it: %v", got)
	}
}

func TestTrials(t *testing.T) {
	if got := (options{}).trials(); len(got) != len(trials) {
		t.Errorf("usual: %+v", got)
	}
	got := options{losses: []float64{0.03}, rows: []string{"ssh"}}.trials()
	if len(got) != 2 || got[0].loss != 0.03 || got[0].congestion != onlyCubic || got[1].congestion != allowingBBR || got[0].rows[0] != "ssh" {
		t.Errorf("chosen: %+v", got)
	}
}
