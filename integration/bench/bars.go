package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// A bar is something that this project wants to reach, as checks of the figures of one run.
type check struct {
	bar   int
	what  string
	limit float64
	least bool // the limit is a lower one
	unit  string
	value func(*report) (float64, bool) // false: not measured
}

// verdict is what became of a check.
type verdict struct {
	Bar      int      `json:"bar"`
	What     string   `json:"what"`
	Measured *float64 `json:"measured,omitempty"`
	Limit    float64  `json:"limit"`
	Least    bool     `json:"limit_is_lower_bound,omitempty"`
	Unit     string   `json:"unit,omitempty"`
	Outcome  string   `json:"outcome"`
}

// The outcomes of a check.
const (
	reached    = "reached"
	notReached = "not reached"
	notRun     = "not run"
)

// checks are the bars.
func checks() []check {
	var all []check
	most := func(bar int, what string, limit float64, unit string, value func(*report) (float64, bool)) {
		all = append(all, check{bar: bar, what: what, limit: limit, unit: unit, value: value})
	}
	least := func(bar int, what string, limit float64, unit string, value func(*report) (float64, bool)) {
		all = append(all, check{bar: bar, what: what, limit: limit, least: true, unit: unit, value: value})
	}
	relay := func(s sample) float64 { return s.CPU["relay"] }
	total := func(s sample) float64 { return sum(s.CPU) }
	pair := func(s sample) float64 { return (s.IdleMemory["relay"] + s.IdleMemory["node"]) / 1024 }

	for _, m := range []string{"up1", "up8", "down1", "down8"} {
		most(1, "port, CPU, "+m, 0.9, "× naive", ratio(onLAN("port-tls", m, total), onLAN("naive", m, total)))
		least(1, "port, MB/s, "+m, 1.1, "× naive", ratio(onLAN("port-tls", m, mbps), onLAN("naive", m, mbps)))
	}
	for _, m := range []string{"up1", "down1"} {
		most(2, "forward, CPU of the relay, "+m, 0.25, "s/GB", onLAN("forward-tls", m, relay))
		most(2, "forward, CPU of the relay, "+m, 0.4, "× naive's", ratio(onLAN("forward-tls", m, relay), onLAN("naive", m, relay)))
		most(2, "forward, CPU of all, "+m, 1.1, "× naive", ratio(onLAN("forward-tls", m, total), onLAN("naive", m, total)))
	}
	least(3, "port, dials", 5000, "/s", onLAN("port-tls", "dials", perSecond))
	most(3, "port, dial p50", 0.5, "ms", onLAN("port-tls", "dial", millis50))
	most(3, "port, round trip p50", 1.2, "× naive", ratio(onLAN("port-tls", "rtt", micros50), onLAN("naive", "rtt", micros50)))
	for _, row := range []string{"port-tls", "forward-tls"} {
		most(4, row+", idle stream, relay and node, of 10,000", 16, "KB", manyIdle(row, onLAN(row, "idle", pair)))
	}
	for _, c := range []struct {
		what, row  string
		loss       float64
		congestion string
		up, down   float64
	}{
		{"no loss", "forward-tls", 0, onlyCubic, 22, 22},
		{"BBR, 8 lanes", "forward-tls-8", 0.01, allowingBBR, 18, 17},
		{"Cubic", "forward-tls", 0.01, onlyCubic, 4.5, 3.8},
		{"Cubic, 64 lanes", "forward-tls-64", 0.01, onlyCubic, 13, 10},
	} {
		least(5, c.what+", up", c.up, "MB/s", onWAN(c.loss, c.congestion, c.row, "up1", mbps))
		least(5, c.what+", down", c.down, "MB/s", onWAN(c.loss, c.congestion, c.row, "down1", mbps))
		if c.loss == 0 {
			continue
		}
		for _, m := range []string{"up1", "down1"} {
			most(6, c.what+", round trip p50 during "+m, 110, "ms", onWAN(c.loss, c.congestion, c.row, m, positive(millis50)))
			most(6, c.what+", dial p50 during "+m, 130, "ms", onWAN(c.loss, c.congestion, c.row, m, positive(dial50)))
		}
	}
	for _, c := range []struct {
		section, way string
		limit        float64
	}{{"faults-lan", "LAN", 0.5}, {"faults-wan", "WAN", 2}} {
		most(7, "gap, one of two relays frozen, "+c.way, c.limit, "s", gap(c.section, faultFrozen, "forward-two"))
		most(7, "gap, one of two relays killed, "+c.way, c.limit, "s", gap(c.section, faultKilled, "forward-two"))
		most(7, "gap beyond a single relay's restart, "+c.way, 1, "s", gap(c.section, faultRestarted, "forward-tls"))
	}
	return all
}

type figure = func(*report) (float64, bool)

// of returns the median of a figure of a row.
func of(s *section, row, measure string, what func(sample) float64) (float64, bool) {
	for _, f := range s.Rows {
		if f.Name == row && len(f.Samples[measure]) > 0 {
			middle, _ := median(f.values(measure, what))
			return middle, true
		}
	}
	return 0, false
}

func inSection(matches func(*section) bool, row, measure string, what func(sample) float64) figure {
	return func(r *report) (float64, bool) {
		i := slices.IndexFunc(r.Sections, matches)
		if i < 0 {
			return 0, false
		}
		return of(r.Sections[i], row, measure, what)
	}
}

func onLAN(row, measure string, what func(sample) float64) figure {
	return inSection(func(s *section) bool { return s.Name == "lan" }, row, measure, what)
}

func onWAN(loss float64, congestion, row, measure string, what func(sample) float64) figure {
	return inSection(func(s *section) bool {
		c := s.Condition
		return s.Name == "wan" && c.Loss == loss && c.Congestion == congestion && c.RTT == longRTT && c.Rate == longRate
	}, row, measure, what)
}

// positive makes nothing measured, such as no dial in all the time, larger than every limit.
func positive(what func(sample) float64) func(sample) float64 {
	return func(s sample) float64 {
		if v := what(s); v > 0 {
			return v
		}
		return worst
	}
}

// worst stands for a time that was over before the operation was.
const worst = 1e6

func gap(where, measure, row string) figure {
	return inSection(func(s *section) bool { return s.Name == where }, row, measure, func(s sample) float64 {
		return (s.Gap - s.Restart).Seconds()
	})
}

func ratio(a, b figure) figure {
	return func(r *report) (float64, bool) {
		x, ok := a(r)
		y, also := b(r)
		return x / max(y, 1e-9), ok && also
	}
}

// manyIdle lets a figure count only where it is of as many idle streams as the bar says.
func manyIdle(row string, f figure) figure {
	streams := onLAN(row, "idle", func(s sample) float64 { return float64(s.Idle) })
	return func(r *report) (float64, bool) {
		n, _ := streams(r)
		v, ok := f(r)
		return v, ok && n >= 10_000
	}
}

// judge compares the figures with the bars.
func (r *report) judge() {
	r.Verdicts = nil
	for _, c := range checks() {
		v := verdict{Bar: c.bar, What: c.what, Limit: c.limit, Least: c.least, Unit: c.unit, Outcome: notRun}
		if measured, ok := c.value(r); ok {
			v.Measured = &measured
			v.Outcome = notReached
			if (c.least && measured >= c.limit) || (!c.least && measured <= c.limit) {
				v.Outcome = reached
			}
		}
		r.Verdicts = append(r.Verdicts, v)
	}
	slices.SortStableFunc(r.Verdicts, func(a, b verdict) int { return cmp.Compare(a.Bar, b.Bar) })
}

// short shows a figure with three digits, or all before its point.
func short(v float64) string {
	if math.Abs(v) >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// printVerdicts prints the bars of which anything was measured, and names the others.
func (r *report) printVerdicts(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nbar\tof\tmeasured\twanted\t")
	var absent []int
	for _, v := range r.Verdicts {
		if v.Measured == nil && !slices.ContainsFunc(r.Verdicts, func(o verdict) bool { return o.Bar == v.Bar && o.Measured != nil }) {
			if !slices.Contains(absent, v.Bar) {
				absent = append(absent, v.Bar)
			}
			continue
		}
		measured, sign := "-", "≤"
		if v.Measured != nil {
			measured = short(*v.Measured)
		}
		if v.Least {
			sign = "≥"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s %.4g %s\t%s\n", v.Bar, v.What, measured, sign, v.Limit, v.Unit, v.Outcome)
	}
	_ = t.Flush()
	if absent != nil {
		fmt.Fprintf(w, "bars not run: %v\n", absent)
	}
}
