package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// TestScreen has what is written appear above the live line, whole.
func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, width: func() int { return 12 }}
	step := func(want string, f func()) {
		t.Helper()
		out.Reset()
		f()
		if got := out.String(); got != want {
			t.Errorf("wrote %q, want %q", got, want)
		}
	}
	write := func(text string) func() {
		return func() {
			if n, err := s.Write([]byte(text)); n != len(text) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
	}
	step("", func() { s.draw("") })
	step("log\n", write("log\n"))
	step("\r\x1b[Kcorp/pg  1 ", func() { s.draw("corp/pg  1 stream") }) // a terminal wraps what fills it
	step("\r\x1b[Klog\ncorp/pg  1 ", write("log\n"))
	step("\r\x1b[Kpart", write("part"))
	step("\r\x1b[K", func() { s.draw("") })
	step("log\n", write("log\n"))
}

func TestMeter(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := &meter{gatherer: registry, title: "corp/pg"}
	if line := m.line(m.read(), m.read()); !strings.HasPrefix(line, "corp/pg  0 streams  0 B read  0 B written  0 B/s") {
		t.Errorf("without metrics: %q", line)
	}
	bundle.NewMetrics(registry) // the names of its metrics are what the meter reads
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, f := range families {
		names[f.GetName()] = true
	}
	for _, name := range []string{metricStreams, metricLanes, metricRead, metricWritten} {
		if !names[name] {
			t.Errorf("there is no metric %s", name)
		}
	}
	now := time.Now()
	m.path("corp/pg", "quic")
	line := m.line(reading{at: now.Add(-2 * time.Second), read: 1e6}, reading{at: now, streams: 1, lanes: 2, read: 4e6, written: 20})
	if line != "corp/pg  1 stream  4.0 MB read  20 B written  1.5 MB/s  quic" {
		t.Errorf("%q", line)
	}
}

func TestDecimal(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_900: "99.9 kB", 99_960: "100 kB", 999_400: "999 kB", 999_600: "1.0 MB",
		1.5e9: "1.5 GB", 2e12: "2.0 TB", 3e15: "3000.0 TB",
	} {
		if got := decimal(n); got != want {
			t.Errorf("%.0f: %q, want %q", n, got, want)
		}
	}
}

// TestNotLive: nothing is drawn where standard error is no terminal.
func TestNotLive(t *testing.T) {
	var out bytes.Buffer
	a := newApp(nil, nil, &out)
	draw := a.live()
	draw(t.Context(), &meter{}) // returns at once: it never reads the metrics
	if a.terminal || out.Len() != 0 || a.err != &out {
		t.Errorf("drew %q", out.String())
	}
	stop := while(t.Context(), func(ctx context.Context) { <-ctx.Done() })
	stop()
}
