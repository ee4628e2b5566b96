//go:build linux

package faults

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// use is what a process holds.
type use struct {
	goroutines, heap float64 // heap in bytes; both 0 where it does not say
	files            int
	resident         float64 // bytes
	violations       float64 // frames that no honest end sends
	lanes, streams   float64 // that are open
}

func (u use) String() string {
	if u.goroutines == 0 {
		return fmt.Sprintf("%d files, %.1f MiB resident", u.files, u.resident/(1<<20))
	}
	return fmt.Sprintf("%.0f lanes, %.0f streams, %.0f goroutines, %.1f MiB heap, %d files, %.1f MiB resident", u.lanes, u.streams, u.goroutines, u.heap/(1<<20), u.files, u.resident/(1<<20))
}

// slack is what a process may hold more than before: timers, memory that the runtime gives back when it likes, and what each
// lane takes that it has more, with the pipes between those that are joined. A lane that has carried bulk keeps larger
// buffers: 13 MiB with 12 lanes, after 40 s as after 20 minutes. Something that is lost with each fault or stream is more
// before long.
type slack struct {
	lanes             float64 // of a path
	goroutines, files float64
	heap              float64
}

const (
	laneGoroutines, laneFiles = 4, 6
	laneHeap                  = 1 << 20
	someMemory                = 128 << 20
)

// soon is when streams are over, late when lanes are given up that nobody needs any more: a minute later.
var (
	soon = slack{lanes: 2 * (16 + 4), goroutines: 60, files: 40, heap: 24 << 20} // two bundles with all that they may have
	late = slack{lanes: 4, goroutines: 20, files: 16, heap: 8 << 20}
)

// more tells what the process holds more than it did before; empty: nothing.
func (u use) more(before use, s slack, paths int) string {
	lanes := u.lanes - before.lanes
	switch {
	case u.streams > 0:
		return "streams"
	case lanes > float64(paths)*s.lanes:
		return "lanes"
	case u.goroutines > before.goroutines+s.goroutines+max(lanes, 0)*laneGoroutines:
		return "goroutines"
	case float64(u.files) > float64(before.files)+s.files+max(lanes, 0)*laneFiles:
		return "files"
	case u.heap > before.heap+s.heap+u.lanes*laneHeap:
		return "heap"
	case u.resident > before.resident+someMemory:
		return "memory"
	}
	return ""
}

// shown is what processes hold, a line each.
func shown(all map[string]use) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "\n    %-20s %v", name, all[name])
	}
	return b.String()
}

// use measures the processes that are to be as they were: by name.
func (s *soak) use() map[string]use {
	all := make(map[string]use)
	measure := func(name string, p *proc.Process, metrics string) {
		u, err := useOf(p, metrics)
		if err != nil {
			s.t.Errorf("%s: %v", name, err)
		}
		all[name] = u
	}
	for _, r := range s.relays {
		measure(r.name, r.Process, r.metrics)
	}
	for _, p := range s.paths {
		measure("connector of "+p.gateway, p.connector.Process, p.metrics)
		measure("forward of "+p.gateway, p.forward.Process, "")
	}
	return all
}

func useOf(p *proc.Process, metrics string) (u use, err error) {
	dir := fmt.Sprintf("/proc/%d/", p.PID())
	files, err := os.ReadDir(dir + "fd")
	if err != nil {
		return u, err
	}
	u.files = len(files)
	statm, err := os.ReadFile(dir + "statm")
	if err != nil {
		return u, err
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(statm))[1], 64)
	u.resident = pages * float64(os.Getpagesize())
	if err != nil || metrics == "" {
		return u, err
	}
	answer, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		return u, err
	}
	defer func() { _ = answer.Body.Close() }()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		switch name {
		case "go_goroutines":
			u.goroutines = value
		case "go_memstats_heap_alloc_bytes":
			u.heap = value
		case "ebbgate_bundle_lanes", "ebbgate_relay_client_lanes":
			u.lanes += value
		case "ebbgate_bundle_streams":
			u.streams = value
		case `ebbgate_bundle_frames_dropped_total{reason="protocol-violation"}`,
			`ebbgate_bundle_frames_dropped_total{reason="credit-overflow"}`,
			`ebbgate_bundle_frames_dropped_total{reason="overlapping-data"}`,
			`ebbgate_bundle_frames_dropped_total{reason="digest-mismatch"}`:
			u.violations += value
		}
	}
	return u, nil
}

// settle waits until everything is as it was before: at the latest when the grace of streams is over whose end was killed.
func (s *soak) settle(before map[string]use) {
	until, allowed := time.Now().Add(4*time.Minute), soon
	if s.long >= time.Minute {
		allowed = late
	}
	for {
		now, more := s.use(), ""
		for name, u := range now {
			paths := 1
			if strings.HasSuffix(name, "relay") {
				paths = len(s.paths)
			}
			if what := u.more(before[name], allowed, paths); what != "" {
				more += " " + what + " of the " + name + ";"
			}
			if u.violations > 0 {
				s.t.Errorf("the %s saw %.0f frames that no honest end sends", name, u.violations)
			}
		}
		if s.t.Failed() {
			return
		}
		if more == "" {
			s.t.Logf("after %v: %s", time.Since(s.calm).Round(time.Second), shown(now))
			return
		}
		if wait(s.ctx, 500*time.Millisecond); time.Now().After(until) || s.ctx.Err() != nil {
			s.t.Errorf("something is left:%s %s\nbefore it was: %s", more, shown(now), shown(before))
			return
		}
	}
}

// watch shows each minute what the connector holds that lives all the while.
func (s *soak) watch(stop <-chan struct{}) {
	kept := s.paths[0]
	for s.pause(stop, time.Minute) {
		u, err := useOf(kept.connector.Process, kept.metrics)
		s.t.Logf("after %v: a connector holds %v (%v)", time.Since(s.began).Round(time.Second), u, err)
	}
}
