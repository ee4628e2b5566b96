package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// The kinds of measurement.
const (
	kindUp    = "up"
	kindDown  = "down"
	kindRTT   = "rtt"
	kindDial  = "dial"
	kindDials = "dials"
	kindGreet = "greet" // a dial up to the store's greeting
	kindIdle  = "idle"
	kindLane  = "lane" // memory of idle lanes

	kindFlowUp   = "flow-up"
	kindFlowDown = "flow-down"
	kindFlowBoth = "flow-both" // every other stream up
)

// measure is something that can be measured of any row.
type measure struct {
	name, kind string
	streams    int // 0: as the flags say
}

// measures are taken in this order. Memory is taken once, that of streams before anything else made the heaps grow.
var measures = []measure{
	{"idle", kindIdle, 0},
	{"up1", kindUp, 1},
	{"up8", kindUp, 8},
	{"down1", kindDown, 1},
	{"down8", kindDown, 8},
	{"rtt", kindRTT, 1},
	{"dial", kindDial, 1},
	{"dials", kindDials, 0},
	{"lane", kindLane, 0}, // the last: what is left of its clients waits for them for a while
}

// wanMeasures are those of the long way. Throughput is what arrives in a time after a ramp, and round trips and dials
// are measured meanwhile; dial is that of the idle way.
var wanMeasures = []measure{
	{"dial", kindGreet, 1},
	{"up1", kindFlowUp, 1},
	{"down1", kindFlowDown, 1},
	{"up8", kindFlowUp, 8},
	{"down8", kindFlowDown, 8},
	{"up16", kindFlowUp, 16},
	{"down16", kindFlowDown, 16},
	{"up64", kindFlowUp, 64},
	{"down64", kindFlowDown, 64},
}

func measureNames(measures []measure) []string {
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	return names
}

// sample is one measurement. Only what the measure's kind has is set.
type sample struct {
	MBps       float64            `json:"mb_per_s,omitempty"`
	CPU        map[string]float64 `json:"cpu_s_per_gb,omitempty"`    // by part
	DialCPU    map[string]float64 `json:"cpu_ms_per_dial,omitempty"` // by part
	P50        time.Duration      `json:"p50_ns,omitempty"`
	P99        time.Duration      `json:"p99_ns,omitempty"`
	PerSecond  float64            `json:"per_s,omitempty"`
	Failed     int                `json:"failed,omitempty"`
	Failure    string             `json:"failure,omitempty"`
	IdleMemory map[string]float64 `json:"bytes_per_stream,omitempty"` // by part
	Idle       int                `json:"idle_streams,omitempty"`     // of which IdleMemory is
	LaneMemory map[string]float64 `json:"bytes_per_lane,omitempty"`   // by part

	// Of flows; P50 and P99 are round trips' then.
	DialP50 time.Duration `json:"dial_p50_ns,omitempty"`
	DialP99 time.Duration `json:"dial_p99_ns,omitempty"`
	Gap     time.Duration `json:"longest_gap_ns,omitempty"`
	Restart time.Duration `json:"restart_ns,omitempty"`                 // of a part that was killed: until it served again
	Course  []float64     `json:"mb_per_s_by_quarter_second,omitempty"` // all streams together, from the beginning
}

func (s sample) String() string {
	switch {
	case s.Course != nil && s.P50 == 0:
		return fmt.Sprintf("%.2f MB/s, longest gap %v, restarted in %v", s.MBps, s.Gap.Round(time.Millisecond), s.Restart.Round(time.Millisecond))
	case s.Course != nil:
		return fmt.Sprintf("%.2f MB/s, %.2f CPU s/GB, longest gap %v; meanwhile round trip p50 %v, dial p50 %v",
			s.MBps, sum(s.CPU), s.Gap.Round(time.Millisecond), s.P50.Round(time.Millisecond), s.DialP50.Round(time.Millisecond))
	case s.MBps > 0:
		return fmt.Sprintf("%.0f MB/s, %.2f CPU s/GB", s.MBps, sum(s.CPU))
	case s.PerSecond > 0:
		return fmt.Sprintf("%.0f/s, p50 %v", s.PerSecond, s.P50)
	case s.LaneMemory != nil:
		return fmt.Sprintf("%.1f KB a lane", sum(s.LaneMemory)/1024)
	case s.IdleMemory != nil:
		return fmt.Sprintf("%.1f KB a stream of %d", sum(s.IdleMemory)/1024, s.Idle)
	default:
		return fmt.Sprintf("p50 %v, p99 %v", s.P50, s.P99)
	}
}

// take takes one measurement.
func (m measure) take(ctx context.Context, p *path, o options) (sample, error) {
	if m.kind == kindIdle {
		return takeIdle(ctx, p, o.idle*p.idle)
	}
	if m.kind == kindLane {
		return takeLanes(ctx, p)
	}
	l := load{Way: p.way, Measure: m.kind, Streams: m.streams, For: o.seconds}
	switch m.kind {
	case kindUp, kindDown:
	case kindFlowUp, kindFlowDown:
		l.Ramp = o.ramp
		l.For += o.ramp
	default:
		l.For /= 2
	}
	if m.streams == 0 {
		l.Streams = o.workers
	}
	before, err := cpuOf(p.parts)
	if err != nil {
		return sample{}, err
	}
	r, err := runLoad(ctx, p.near, l)
	if err != nil {
		return sample{}, err
	}
	after, err := cpuOf(p.parts)
	if err != nil {
		return sample{}, err
	}
	s := sample{Failed: r.Failed, Failure: r.Failure}
	per := func(n float64, unit time.Duration) map[string]float64 {
		used := make(map[string]float64)
		for name, cpu := range after {
			used[name] = float64(cpu-before[name]) / float64(unit) / n
		}
		return used
	}
	if len(r.Flows) > 0 {
		s.flow(r, o.ramp)
		s.CPU = per(float64(r.Bytes)/1e9, time.Second)
		return s, nil
	}
	if r.Bytes > 0 {
		s.MBps = float64(r.Bytes) / 1e6 / r.Elapsed.Seconds()
		s.CPU = per(float64(r.Bytes)/1e9, time.Second)
		return s, nil
	}
	s.P50, s.P99 = quantiles(r.Each)
	if m.kind == kindDials {
		s.PerSecond = float64(len(r.Each)) / r.Elapsed.Seconds()
		s.DialCPU = per(float64(len(r.Each)), time.Millisecond)
	}
	return s, nil
}

// flow reads a sample off the receivers' tallies.
func (s *sample) flow(r result, ramp time.Duration) {
	s.P50, s.P99 = quantiles(r.Each)
	s.DialP50, s.DialP99 = quantiles(r.Dials)
	for _, f := range r.Flows {
		s.MBps += f.perSecond(ramp) / 1e6
		s.Gap = max(s.Gap, f.Gap)
		if s.Course == nil {
			s.Course = make([]float64, len(f.Slots))
		}
		for i, n := range f.Slots {
			s.Course[i] += math.Round(float64(n)/slot.Seconds()/1e4) / 100
		}
	}
}

// quantiles returns the median and the 99th percentile of sorted durations.
func quantiles(each []time.Duration) (p50, p99 time.Duration) {
	if len(each) == 0 {
		return 0, 0
	}
	return each[len(each)/2], each[len(each)*99/100]
}

// takeIdle opens idle streams and weighs the parts before and while they are open. A first, smaller crowd that
// closes again pays for what any use costs once.
func takeIdle(ctx context.Context, p *path, idle int) (sample, error) {
	var weight [2]map[string]int64
	for i, streams := range []int{max(1, idle/10), idle} {
		hold, err := hold(ctx, p, kindIdle, streams)
		if err != nil {
			return sample{}, err
		}
		if i == 0 {
			hold.Kill()
			if err := pause(ctx, time.Second); err != nil { // the ends travel
				return sample{}, err
			}
			weight[0], err = memoryOf(p.parts)
		} else {
			if err := pause(ctx, time.Second); err != nil { // nothing moves any more
				hold.Kill()
				return sample{}, err
			}
			weight[1], err = memoryOf(p.parts)
			hold.Kill()
		}
		if err != nil {
			return sample{}, err
		}
	}
	s := sample{IdleMemory: make(map[string]float64), Idle: idle}
	for name, w := range weight[1] {
		s.IdleMemory[name] = float64(w-weight[0][name]) / float64(idle)
	}
	return s, pause(ctx, time.Second)
}

// hold starts a load that holds so many idle streams.
func hold(ctx context.Context, p *path, kind string, streams int) (*proc.Process, error) {
	spec, err := roleSpec(p.near, "load", load{Way: p.way, Measure: kind, Streams: streams})
	if err != nil {
		return nil, err
	}
	hold, err := proc.Start(spec)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var r json.RawMessage
	if err := hold.Ready(ctx, &r); err != nil {
		hold.Kill()
		return nil, err
	}
	return hold, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func sum(m map[string]float64) float64 {
	var total float64
	for _, v := range m {
		total += v
	}
	return total
}

// median returns the middle of the values, and half the distance between the outermost.
func median(values []float64) (middle, spread float64) {
	if len(values) == 0 {
		return 0, 0
	}
	v := slices.Sorted(slices.Values(values))
	middle = v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return middle, (v[len(v)-1] - v[0]) / 2
}
