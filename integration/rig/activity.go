package rig

import (
	"context"
	"fmt"
	"time"
)

// Run is what activity list says of a run.
type Run struct {
	Job          string    `json:"job"`
	Run          string    `json:"run"`
	Gateway      string    `json:"gateway"`
	Node         string    `json:"node"`
	Store        string    `json:"store"`
	Start        time.Time `json:"start"`
	End          time.Time `json:"end"`
	Streams      int64     `json:"streams"`
	BytesRead    int64     `json:"bytes_read"`
	BytesWritten int64     `json:"bytes_written"`
	Resumes      int64     `json:"resumes"`
	Result       string    `json:"result"`
	Reason       string    `json:"reason"`
	Hop          string    `json:"hop"`
	Failed       int64     `json:"failed"`
	Lost         int64     `json:"lost"`
	Refused      int64     `json:"refused"`
	OneSided     int64     `json:"one_sided"` // wanted: at most so many
}

// Activity lists runs, newest first; query are flags of activity list.
func (r *Relay) Activity(ctx context.Context, query ...string) ([]Run, error) {
	var list struct{ Runs []Run }
	err := r.Admin(ctx, &list, append([]string{"activity", "list"}, query...)...)
	return list.Runs, err
}

// AwaitRun asks the relay until a run is listed that is as wanted, where what is zero may be anything,
// and both ends of its streams have reported.
func (r *Relay) AwaitRun(ctx context.Context, want Run, query ...string) (Run, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last []Run
	for {
		runs, err := r.Activity(ctx, query...)
		if err != nil {
			return Run{}, fmt.Errorf("rig: no run is as wanted:\nwant %+v\ngot  %+v: %w", want, last, err)
		}
		last = runs
		for _, got := range runs {
			if want.fits(got) {
				return got, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return Run{}, fmt.Errorf("rig: no run is as wanted:\nwant %+v\ngot  %+v: %w", want, runs, ctx.Err())
		}
	}
}

func (r Run) fits(got Run) bool {
	name := func(a, b string) bool { return a == "" || a == b }
	number := func(a, b int64) bool { return a == 0 || a == b }
	return name(r.Job, got.Job) && name(r.Run, got.Run) && name(r.Gateway, got.Gateway) && name(r.Node, got.Node) && name(r.Store, got.Store) &&
		name(r.Result, got.Result) && name(r.Reason, got.Reason) && name(r.Hop, got.Hop) &&
		number(r.Streams, got.Streams) && number(r.BytesRead, got.BytesRead) && number(r.BytesWritten, got.BytesWritten) &&
		number(r.Resumes, got.Resumes) && number(r.Failed, got.Failed) && number(r.Lost, got.Lost) && got.OneSided <= r.OneSided
}
