package oracle

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"
)

// Scenario is one of the shapes that a connection can have, and what each end must see of it. Whatever carries the
// connection, it must look as it does on a direct one.
type Scenario struct {
	Name string
	Job  Job
	// Content are the kinds of end that the job may see, and Upload those that the store may see. None: any that is
	// honest.
	Content, Upload []Kind
}

// sizes of contents: around the bounds of buffers, and some megabytes.
var sizes = []int64{3 << 20, 1, 64 << 10, 64<<10 + 1, 64<<10 - 1, 256 << 10, 1<<20 + 13, 5, 300_001, 9 << 20}

// failures are the ends that are not a clean one.
var failures = []Kind{KindReset, KindError}

// Scenarios returns every shape once. Rounds differ in sizes and contents.
func Scenarios(round int) []Scenario {
	n := sizes[round%len(sizes)]
	m := sizes[(round+1)%len(sizes)]
	seed := uint64(round)*1000 + 1
	whole := []Kind{KindComplete}
	both := Script{Seed: seed, Send: n, End: EndFIN, UploadSeed: seed + 1}
	first, reset, silent, slow, long := both, both, both, both, both
	first.ReadFirst = true
	reset.End = EndReset
	silent.End = EndSilent
	long.Send = 64 << 20
	slow.Send, slow.Chunk, slow.Pause = 5000, 1000, time.Millisecond
	return []Scenario{
		{"store ends, job ends", Job{Script: both, Upload: m, End: EndFIN}, whole, whole},
		{"store half-closes first", Job{Script: both, Upload: m, End: EndFIN, UploadLast: true}, whole, whole},
		{"job half-closes first", Job{Script: first, Upload: m, End: EndFIN}, whole, whole},
		{"store resets", Job{Script: reset}, failures, nil},
		{"store resets, job still sends", Job{Script: reset, Upload: 64 << 20, End: EndFIN}, failures, failures},
		{"job resets", Job{Script: silent, Upload: m, End: EndReset}, nil, failures},
		{"job resets in mid-download", Job{Script: long, StopAfter: n}, failures, failures},
		{"slow store ends", Job{Script: slow, End: EndFIN}, whole, whole},
	}
}

// Run plays the scenario on a connection that leads to the store, and returns an error if either end saw something
// else than it must.
func (s Scenario) Run(ctx context.Context, conn Conn, store *StoreProcess) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	s.Job.Script.ID = rand.Text()
	content, err := s.Job.Run(conn)
	if err := check("the job", content, s.Content, s.Job.Script.Seed, s.Job.Script.Send); err != nil {
		return err
	}
	if content.Complete() && err != nil {
		return err
	}
	report, err := store.Report(ctx, s.Job.Script.ID)
	if err != nil {
		return err
	}
	return check("the store", report.Upload, s.Upload, s.Job.Script.UploadSeed, s.Job.Upload)
}

func check(who string, o Outcome, kinds []Kind, seed uint64, n int64) error {
	if kinds != nil && !slices.Contains(kinds, o.Kind) {
		return fmt.Errorf("%s saw: %v; want one of %v", who, o, kinds)
	}
	if err := o.Honest(seed, n); err != nil {
		return fmt.Errorf("%s saw: %w", who, err)
	}
	return nil
}
