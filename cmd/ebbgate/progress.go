package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/term"
)

// The metrics of package bundle that a meter reads.
const (
	metricStreams = "ebbgate_bundle_streams"
	metricLanes   = "ebbgate_bundle_lanes"
	metricRead    = "ebbgate_bundle_socket_read_bytes_total"
	metricWritten = "ebbgate_bundle_socket_written_bytes_total"
)

// meter reads what streams do out of a command's metrics.
type meter struct {
	gatherer prometheus.Gatherer
	node     bool // the sockets are stores' and not jobs'

	mu sync.Mutex
	// guarded by mu
	title string // what the line is about
	way   string // what is travelled on
}

// path notes where the streams go and what they travel on.
func (m *meter) path(title, carrier string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.title, m.way = title, carrier
}

// reading is what was counted at one time. Read is from stores, written to them.
type reading struct {
	at            time.Time
	streams       int
	lanes         int     // none: streams wait for the relay or the node
	read, written float64 // bytes
}

func (m *meter) read() reading {
	r := reading{at: time.Now()}
	families, _ := m.gatherer.Gather() // what could be gathered counts
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			switch f.GetName() {
			case metricStreams:
				r.streams = int(metric.GetGauge().GetValue())
			case metricLanes:
				r.lanes = int(metric.GetGauge().GetValue())
			case metricRead:
				r.written = metric.GetCounter().GetValue()
			case metricWritten:
				r.read = metric.GetCounter().GetValue()
			}
		}
	}
	if m.node {
		r.read, r.written = r.written, r.read
	}
	return r
}

func (r reading) total() float64 { return r.read + r.written }

// line is the live line: what it is about, what moved, how fast, over what.
func (m *meter) line(before, now reading) string {
	speed := 0.0
	if d := now.at.Sub(before.at).Seconds(); d > 0 {
		speed = (now.total() - before.total()) / d
	}
	m.mu.Lock()
	title, way := m.title, m.way
	m.mu.Unlock()
	if now.streams > 0 && now.lanes == 0 {
		way = "waiting for the way back"
	}
	line := fmt.Sprintf("%s  %s  %s read  %s written  %s/s", title, plural(now.streams, "stream"), decimal(now.read), decimal(now.written), decimal(speed))
	if way != "" {
		line += "  " + way
	}
	return line
}

// decimal prints a number of bytes in powers of 1000.
func decimal(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 999.5 {
			if unit == "B" || n >= 99.95 {
				return fmt.Sprintf("%.0f %s", n, unit)
			}
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.1f TB", n)
}

// liveEvery is how often the live line is drawn.
const liveEvery = time.Second

// screen is a terminal with one line at its end that is drawn again and again.
// What is written meanwhile appears above it.
type screen struct {
	out   io.Writer
	width func() int

	mu   sync.Mutex
	line string // guarded by mu: what is drawn now
}

// clearLine moves to the line's begin and empties it (ECMA-48 EL).
const clearLine = "\r\x1b[K"

// Write writes above the live line.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line == "" {
		return s.out.Write(p)
	}
	if _, err := io.WriteString(s.out, clearLine); err != nil {
		return 0, err
	}
	n, err := s.out.Write(p)
	if err == nil && strings.HasSuffix(string(p), "\n") {
		_, err = io.WriteString(s.out, s.line)
	}
	return n, err
}

// draw replaces the live line; "" takes it away.
func (s *screen) draw(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line == "" && s.line == "" {
		return
	}
	if runes, most := []rune(line), s.width()-1; len(runes) > most {
		line = string(runes[:max(most, 0)])
	}
	s.line = line
	_, _ = io.WriteString(s.out, clearLine+line)
}

// live makes standard error a screen where it is a terminal and people read it,
// and gives what draws the line until its context ends. It is called before the
// command's logger is made.
func (a *app) live() (draw func(ctx context.Context, m *meter)) {
	f, ok := a.err.(*os.File)
	if !ok || a.json || !term.IsTerminal(int(f.Fd())) {
		return func(context.Context, *meter) {}
	}
	s := &screen{out: f, width: func() int {
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 {
			return 80
		}
		return width
	}}
	a.err, a.terminal = s, true
	return func(ctx context.Context, m *meter) {
		tick := time.NewTicker(liveEvery)
		defer tick.Stop()
		defer s.draw("")
		before := m.read()
		for {
			select {
			case <-tick.C:
				now := m.read()
				s.draw(m.line(before, now))
				before = now
			case <-ctx.Done():
				return
			}
		}
	}
}
