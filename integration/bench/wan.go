package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// condition is what the long way is like.
type condition struct {
	RTT        time.Duration `json:"rtt_ns"`
	Rate       float64       `json:"bytes_per_s"`
	Loss       float64       `json:"loss"`
	Congestion string        `json:"congestion_control"`
}

// The congestion controls of a condition.
const (
	onlyCubic   = "cubic"   // of everything: no process can choose another one
	defaultBBR  = "bbr"     // of everything that does not choose
	allowingBBR = "allowed" // Cubic of everything that does not choose
)

func (c *condition) String() string {
	congestion := map[string]string{
		onlyCubic: "Cubic only", defaultBBR: "BBR by default", allowingBBR: "Cubic by default, BBR allowed",
	}[c.Congestion]
	return fmt.Sprintf("%v round trip, %.0f Mbit/s, %.3g %% loss, %s", c.RTT, c.Rate*8/1e6, c.Loss*100, congestion)
}

// The long way of the bars.
const (
	longRTT  = 80 * time.Millisecond
	longRate = 25e6
)

// trial is a condition of the usual run, with what is measured then.
type trial struct {
	loss       float64
	congestion string
	rows       []string
	more       map[string][]string // rows' measures beside up1 and down1
}

// eight streams at once.
var eight = []string{"up8", "down8"}

// manyTCP are as many TCP connections as a bundle has lanes: what one stream over them can reach.
var manyTCP = []string{"up16", "down16", "up64", "down64"}

var trials = []trial{
	{0, onlyCubic, []string{"direct", "naive", "frp", "chisel", "forward-tls"}, nil},
	{0.01, onlyCubic, []string{
		"direct", "naive", "ssh", "frp", "chisel", "port-tls", "forward-tls", "forward-quic", "forward-wss", "forward-tls-64",
	}, map[string][]string{"direct": manyTCP, "naive": eight, "forward-tls": eight}},
	{0.01, defaultBBR, []string{"direct", "naive", "frp", "chisel"}, nil},
	{0.01, allowingBBR, []string{"port-tls", "forward-tls", "forward-tls-8"}, nil},
}

// wanSection measures rows on the long way, one after the other.
func wanSection(ctx context.Context, r *report, s site, o options) error {
	link, err := startLink(ctx)
	if err != nil {
		return r.leaveOut("wan", err)
	}
	defer link.close()
	defer func() { r.LinkCPU, r.LinkGB = link.spent().Seconds(), float64(link.moved())/1e9 }()
	for _, t := range o.trials() {
		c := &condition{RTT: longRTT, Rate: longRate, Loss: t.loss, Congestion: t.congestion}
		o.say("%v", c)
		if err := t.run(ctx, r.section("wan", c), link, s, o); err != nil {
			return err
		}
	}
	return nil
}

// trials are the usual ones, or what the flags ask for.
func (o options) trials() []trial {
	all := trials
	if o.losses != nil || o.congestion != nil {
		all = nil
		for _, loss := range orDefault(o.losses, 0, 0.01) {
			for _, c := range orDefault(o.congestion, onlyCubic, allowingBBR) {
				all = append(all, trial{loss, c, []string{"direct", "naive", "ssh", "forward-tls"}, nil})
			}
		}
	}
	if o.rows == nil {
		return all
	}
	chosen := slices.Clone(all)
	for i := range chosen {
		chosen[i].rows = o.rows
	}
	return chosen
}

func orDefault[T any](given []T, otherwise ...T) []T {
	if given == nil {
		return otherwise
	}
	return given
}

// The map: one stream down on ways of these lengths that lose so much.
var (
	mapRTTs   = []time.Duration{20 * time.Millisecond, 80 * time.Millisecond, 200 * time.Millisecond}
	mapLosses = []float64{0, 0.001, 0.01, 0.03}
)

// mapRows are what is measured there under each congestion control.
var mapRows = map[string][]string{
	onlyCubic:   {"naive", "ssh", "forward-tls"},
	allowingBBR: {"forward-tls"},
}

// mapSections measures the map.
func mapSections(ctx context.Context, r *report, s site, o options) error {
	link, err := startLink(ctx)
	if err != nil {
		return r.leaveOut("map", err)
	}
	defer link.close()
	o.measures = []string{"down1"}
	for _, rtt := range orDefault(o.rtts, mapRTTs...) {
		for _, loss := range orDefault(o.losses, mapLosses...) {
			for _, congestion := range []string{onlyCubic, allowingBBR} {
				c := &condition{RTT: rtt, Rate: longRate, Loss: loss, Congestion: congestion}
				o.say("%v", c)
				t := trial{loss, congestion, orDefault(o.rows, mapRows[congestion]...), nil}
				if err := t.run(ctx, r.section("map", c), link, s, o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// run measures the rows of a trial.
func (t trial) run(ctx context.Context, f *section, link *wanLink, s site, o options) error {
	o.seconds = cmp.Or(o.seconds, 3*time.Second)
	f.Seconds, f.Rounds = o.seconds.Seconds(), o.wanRounds
	var err error
	if s.near, s.far, err = link.set(*f.Condition); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp(s.dir, "wan-"); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	store, addr, err := startRole(ctx, s.far, "store", storeInput{Listen: s.far.addr})
	if err != nil {
		return err
	}
	defer store.Kill()
	s.store = addr
	for _, row := range rows {
		if !slices.Contains(t.rows, row.name) {
			continue
		}
		found, p, err := f.start(ctx, row, s, o)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		err = t.measure(ctx, found, p, link, o)
		p.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// measure takes all samples of a row that is up.
func (t trial) measure(ctx context.Context, found *rowFound, p *path, link *wanLink, o options) error {
	for range o.wanRounds {
		for _, m := range wanMeasures {
			if !wanted(o.measures, append([]string{"up1", "down1"}, t.more[found.Name]...), m.name) {
				continue
			}
			if err := found.measure(ctx, m, p, o); err != nil {
				return err
			}
			if err := settle(ctx, link); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle waits until the link is nearly quiet: what was sent last travels for a while.
func settle(ctx context.Context, link *wanLink) error {
	const quiet, enough = 100 << 10, 10 * time.Second // bytes a look
	before := link.moved()
	for start := time.Now(); time.Since(start) < enough; {
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		now := link.moved()
		if now-before < quiet {
			return nil
		}
		before = now
	}
	return nil
}
