//go:build linux

package storms

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// meter reads what a relay and a connector use. Its connection to the relay's metrics stays open, so that it also
// works when the relay can accept no more.
type meter struct {
	p      *path
	client *http.Client
	base   use // before the storm
	before counts
}

// use is what the processes hold.
type use struct {
	goroutines, descriptors float64 // of the relay
	heap, memory            float64 // of the relay, in bytes
	files                   int     // of the connector
	resident                float64 // of the connector, in bytes
}

// counts are the values of metrics by their text, such as `name{reason="ok"}`.
type counts map[string]float64

// newMeter measures before the storm.
func newMeter(ctx context.Context, t *testing.T, p *path) *meter {
	t.Helper()
	m := &meter{p: p, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}}
	t.Cleanup(m.client.CloseIdleConnections)
	p.dial(ctx, t) // what is made once is made now
	m.base, m.before = m.now(ctx, t), m.counts(ctx, t)
	t.Logf("before: %+v", m.base)
	return m
}

// counts reads the relay's metrics.
func (m *meter) counts(ctx context.Context, t *testing.T) counts {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.p.relay.Metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	all := make(counts)
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		line := lines.Text()
		name, value, ok := strings.Cut(line, " ")
		if i := strings.LastIndexByte(line, ' '); i >= 0 {
			name, value = line[:i], line[i+1:]
		}
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(line, "#") {
			all[name] = v
		}
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	return all
}

func (m *meter) now(ctx context.Context, t *testing.T) use {
	t.Helper()
	all := m.counts(ctx, t)
	u := use{
		goroutines: all["go_goroutines"], descriptors: all["process_open_fds"],
		heap: all["go_memstats_heap_alloc_bytes"], memory: all["process_resident_memory_bytes"],
	}
	if u.goroutines == 0 || u.descriptors == 0 || u.memory == 0 {
		t.Fatalf("the relay's metrics do not say what it uses: %+v", u)
	}
	pid := m.p.connector.PID()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	u.files, u.resident = len(files), resident(t, pid)
	return u
}

// resident is a process' memory in bytes.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(status))[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * float64(os.Getpagesize())
}

// Slack that a relay or connector may keep after a storm: idle connections, timers, memory that the runtime gives back
// to the system when it likes.
const (
	fewGoroutines  = 40
	fewDescriptors = 20
	fewSockets     = 60 // of the connector: streams of a client that vanished live on for the grace
	someHeap       = 24 << 20
	someMemory     = 96 << 20
)

// settle waits until everything is back where it was.
func (m *meter) settle(ctx context.Context, t *testing.T) {
	t.Helper()
	late := time.NewTimer(90 * time.Second)
	defer late.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		u := m.now(ctx, t) // reading metrics makes garbage, and so has it collected
		if u.goroutines <= m.base.goroutines+fewGoroutines && u.descriptors <= m.base.descriptors+fewDescriptors &&
			u.files <= m.base.files+fewSockets && u.heap <= m.base.heap+someHeap &&
			u.memory <= m.base.memory+someMemory && u.resident <= m.base.resident+someMemory {
			t.Logf("after: %+v", u)
			return
		}
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("the storm left something behind: %+v, before it was %+v", u, m.base)
		}
	}
}

// grew waits until a counter is at least so much higher than before the storm.
func (m *meter) grew(ctx context.Context, t *testing.T, name string, by int) {
	t.Helper()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		all := m.counts(ctx, t)
		if got := all[name] - m.before[name]; got >= float64(by) {
			t.Logf("%s: +%.0f", name, got)
			return
		}
		select {
		case <-tick.C:
		case <-late.C:
			t.Errorf("%s grew by %.0f, want %d; of its kind there are:%s", name, all[name]-m.before[name], by, all.like(name))
			return
		}
	}
}

// like lists the metrics of a name.
func (c counts) like(name string) (list string) {
	family, _, _ := strings.Cut(name, "{")
	for k, v := range c {
		if strings.HasPrefix(k, family) {
			list += fmt.Sprintf("\n  %s %.0f", k, v)
		}
	}
	return list
}
