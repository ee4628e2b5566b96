package activity

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// rows is how many streams the benchmarks of the list have recorded; EBBGATE_ACTIVITY_ROWS
// says otherwise.
func rows(b *testing.B) int {
	if text := os.Getenv("EBBGATE_ACTIVITY_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	return 20_000
}

// benchmarked is a recorder that a benchmark fills.
func benchmarked(b *testing.B) *Recorder {
	r := New(Config{Path: filepath.Join(b.TempDir(), "activity.db")})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); r.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-over })
	return r
}

// fill records streams, each with both halves, so many to a run.
func fill(b *testing.B, r *Recorder, streams, perRun int) {
	for n := 0; n < streams; {
		var batch []Half
		for ; len(batch) < maxBatch && n < streams; n++ {
			h := half(Ingress, 0)
			binary.BigEndian.PutUint64(h.UUID[:], uint64(n))
			h.Run, h.Job, h.Node, h.Gateway = fmt.Sprintf("00000000-0000-0000-0000-%012d", n/perRun), fmt.Sprint("job", n/perRun%50), fmt.Sprint("n", n/perRun%7), fmt.Sprint("g", n/perRun%3)
			h.Start, h.End = noon.Add(time.Duration(n)*time.Millisecond), noon.Add(time.Duration(n)*time.Millisecond+time.Second)
			far := h
			far.Side = Node
			batch = append(batch, h, far)
		}
		if err := r.Record(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecord: one operation is one stream, both halves.
func BenchmarkRecord(b *testing.B) {
	r := benchmarked(b)
	fill(b, r, 1, 1)
	b.ResetTimer()
	fill(b, r, b.N, 10)
}

// BenchmarkList: one operation is one page of 100 runs out of a full database, one
// stream to a run: the worst case.
func BenchmarkList(b *testing.B) {
	r := benchmarked(b)
	n := rows(b)
	start := time.Now()
	fill(b, r, n, 1)
	info, err := os.Stat(r.cfg.Path)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d runs of one stream recorded in %v, %d bytes", n, time.Since(start).Round(time.Millisecond), info.Size())
	for name, q := range map[string]Query{
		"newest": {}, "job": {Job: "job7"}, "node": {Node: "n1"}, "gateway": {Gateway: "g1"},
		"gateway-node-job": {Gateway: "g1", Node: "n1", Job: "job7"}, "rare": {Gateway: "g1", Node: "n9"},
		"since": {Since: noon.Add(time.Duration(n-500) * time.Millisecond)},
		"deep":  {After: strconv.FormatInt(noon.Add(time.Duration(n/2)*time.Millisecond).UnixMicro(), 10) + ".x"},
	} {
		q.Tenant, q.Limit = "t", 100
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := r.List(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
