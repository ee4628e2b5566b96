package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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
			switch m.kind {
			case kindIdle:
				want = 1
			case kindLane:
				want = 0 // neither has lanes
			}
			if len(samples) != want {
				t.Errorf("%s, %s: %d samples, want %d", row.Name, m.name, len(samples), want)
			}
			if want == 0 || len(samples) == 0 {
				continue
			}
			s := samples[0]
			bulk := m.kind == kindUp || m.kind == kindDown
			if (bulk && s.MBps <= 0) || (m.kind == kindRTT && (s.P50 <= 0 || s.P99 < s.P50)) || (m.kind == kindDials && s.PerSecond <= 0) {
				t.Errorf("%s, %s: %+v", row.Name, m.name, s)
			}
		}
	}
	naive := rows[1]
	if used := naive.Samples["up8"][0].CPU; len(used) != 2 {
		t.Errorf("the naive pipe's CPU: %+v", used)
	}
	if m := naive.Samples["idle"][0]; m.IdleMemory["relay"]+m.IdleMemory["node"] <= 0 || m.Idle != o.idle {
		t.Errorf("the naive pipe's idle streams: %+v", m)
	}
}

// TestCPU computes until the kernel's accounts show it.
func TestCPU(t *testing.T) {
	me := []part{{name: "me", pid: os.Getpid()}}
	before, err := cpuOf(me)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		after, err := cpuOf(me)
		if err != nil {
			t.Fatal(err)
		}
		if after["me"] >= before["me"]+3*tick {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v before, %v after a minute", before, after)
		}
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
		only: []string{"wan"}, rows: []string{"naive"}, measures: []string{"dial", "up1", "down1"},
		losses: []float64{0.01}, congestion: []string{onlyCubic},
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
		if s := row.Samples["dial"]; len(s) != 1 || s[0].P50 < longRTT {
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

// TestBars gives a report figures on both sides of the bars.
func TestBars(t *testing.T) {
	one := func(s sample) map[string][]sample {
		return map[string][]sample{"up1": {s}, "down1": {s}, "dials": {s}, "dial": {s}, "idle": {s}}
	}
	r := &report{Sections: []*section{
		{Name: "lan", Rows: []*rowFound{
			{Name: "naive", Samples: one(sample{MBps: 500, CPU: map[string]float64{"relay": 1, "node": 1}})},
			{Name: "port-tls", Samples: one(sample{
				MBps: 600, CPU: map[string]float64{"relay": 1, "node": 0.9}, PerSecond: 6000, P50: time.Millisecond,
				IdleMemory: map[string]float64{"relay": 8 << 10, "node": 8 << 10}, Idle: 10_000,
			})},
			{Name: "forward-tls", Samples: one(sample{
				CPU:        map[string]float64{"relay": 0.3, "node": 0.9, "job": 0.9},
				IdleMemory: map[string]float64{"relay": 1}, Idle: 1000,
			})},
		}},
		{
			Name: "wan", Condition: &condition{RTT: longRTT, Rate: longRate, Loss: 0.01, Congestion: onlyCubic},
			Rows: []*rowFound{{Name: "forward-tls", Samples: one(sample{MBps: 4, P50: 100 * time.Millisecond})}},
		},
	}}
	r.judge()
	got := make(map[string]string)
	for _, v := range r.Verdicts {
		got[v.What] = v.Outcome
	}
	for what, want := range map[string]string{
		"port, CPU, up1": notReached, "port, MB/s, up1": reached, "port, CPU, up8": notRun,
		"forward, CPU of the relay, down1": reached, "forward, CPU of all, up1": reached,
		"port, dials": reached, "port, dial p50": notReached, "port, round trip p50": notRun,
		"port-tls, idle stream, relay and node, of 10,000":    reached,
		"forward-tls, idle stream, relay and node, of 10,000": notRun, // of 1,000
		"no loss, up": notRun, "Cubic, up": notReached, "Cubic, down": reached,
		"Cubic, round trip p50 during up1": reached,
		"Cubic, dial p50 during up1":       notReached, // none in all the time
	} {
		if got[what] != want {
			t.Errorf("%s: %q, want %q", what, got[what], want)
		}
	}
}

// TestFRP and TestChisel look at what the rows tell programs that are not here.
func TestFRP(t *testing.T) {
	frps, frpc := frpConfigs("10.0.0.1:7000", "10.0.0.1:8000", "10.0.0.2:9000")
	if want := "bindAddr = \"10.0.0.1\"\nbindPort = 7000\nproxyBindAddr = \"10.0.0.1\"\n"; frps != want {
		t.Errorf("frps.toml:\n%s", frps)
	}
	want := "serverAddr = \"10.0.0.1\"\nserverPort = 7000\n\n[[proxies]]\nname = \"store\"\ntype = \"tcp\"\n" +
		"localIP = \"10.0.0.2\"\nlocalPort = 9000\nremotePort = 8000\n"
	if frpc != want {
		t.Errorf("frpc.toml:\n%s", frpc)
	}
}

func TestChisel(t *testing.T) {
	server, client := chiselArgs("10.0.0.1:7000", "10.0.0.1:8000", "10.0.0.2:9000")
	if got := strings.Join(server, " "); got != "server --reverse --host 10.0.0.1 --port 7000" {
		t.Errorf("server: %s", got)
	}
	if got := strings.Join(client, " "); got != "client http://10.0.0.1:7000 R:10.0.0.1:8000:10.0.0.2:9000" {
		t.Errorf("client: %s", got)
	}
}

// TestDrawFiles has two files with the same point.
func TestDrawFiles(t *testing.T) {
	var files []string
	for i, mbps := range []float64{3.25, 7.75} {
		r := &report{Commit: "abc", Time: time.Unix(int64(i), 0)}
		s := r.section("map", &condition{RTT: mapRTTs[1], Rate: longRate, Loss: 0.01, Congestion: onlyCubic})
		s.Rows = []*rowFound{{Name: "ssh", Samples: map[string][]sample{"down1": {{MBps: mbps}}}}}
		file, err := r.save(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	var svg strings.Builder
	if err := drawFiles(&svg, files); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(svg.String(), "3.25 MB/s") || !strings.Contains(svg.String(), "7.75 MB/s") {
		t.Errorf("the earlier point counts:\n%s", svg.String())
	}
}

// TestDraw draws a map with one curve and reads the result as XML.
func TestDraw(t *testing.T) {
	r := &report{Commit: "abc"}
	if _, err := r.draw(); err == nil {
		t.Error("a report without a map was drawn")
	}
	for _, loss := range mapLosses {
		c := &condition{RTT: mapRTTs[0], Rate: longRate, Loss: loss, Congestion: onlyCubic}
		s := r.section("map", c)
		s.Rows = []*rowFound{{Name: "ssh", Samples: map[string][]sample{"down1": {{MBps: 20 - 1000*loss}}}}}
	}
	svg, err := r.draw()
	if err != nil {
		t.Fatal(err)
	}
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	if circles != len(mapLosses) {
		t.Errorf("%d points, want %d", circles, len(mapLosses))
	}
}
