package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is everything that a run found out.
type report struct {
	Time       time.Time  `json:"time"`
	Commit     string     `json:"commit"`
	Go         string     `json:"go"`
	Kernel     string     `json:"kernel"`
	CPU        string     `json:"cpu"`
	Cores      int        `json:"cores"`
	Congestion string     `json:"congestion_control"`
	LoadBefore string     `json:"load_before"`
	Ramp       float64    `json:"ramp_seconds"`         // of the long way
	LinkCPU    float64    `json:"link_cpu_s,omitempty"` // of the emulated link
	LinkGB     float64    `json:"link_gb,omitempty"`
	Idle       int        `json:"idle_streams"`
	Workers    int        `json:"workers"`
	Sections   []*section `json:"sections"`
	Verdicts   []verdict  `json:"bars"`
	NotRun     []string   `json:"not_run,omitempty"` // sections
}

// section is a part of a run: rows that were measured under the same condition.
type section struct {
	Name      string      `json:"name"`
	Condition *condition  `json:"condition,omitempty"` // of the long way
	Seconds   float64     `json:"seconds,omitempty"`
	Rounds    int         `json:"rounds,omitempty"`
	Rows      []*rowFound `json:"rows"`
}

// section begins a new one.
func (r *report) section(name string, c *condition) *section {
	s := &section{Name: name, Condition: c}
	r.Sections = append(r.Sections, s)
	return s
}

// rowFound is what was found out about a row: each measure's samples, in the order of the rounds.
type rowFound struct {
	Name    string              `json:"name"`
	NotRun  string              `json:"not_run,omitempty"`
	Samples map[string][]sample `json:"samples,omitempty"`
	Errors  map[string]string   `json:"errors,omitempty"` // by measure; the last one
}

func newReport(o options) *report {
	return &report{
		Time: time.Now().UTC().Truncate(time.Second), Commit: commit(), Go: runtime.Version(),
		Kernel: line("/proc/sys/kernel/osrelease"), CPU: cpuModel(), Cores: runtime.NumCPU(),
		Congestion: line("/proc/sys/net/ipv4/tcp_congestion_control"), LoadBefore: line("/proc/loadavg"),
		Ramp: o.ramp.Seconds(), Idle: o.idle, Workers: o.workers,
	}
}

func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func cpuModel() string {
	for l := range strings.Lines(line("/proc/cpuinfo")) {
		if name, ok := strings.CutPrefix(l, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return ""
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// leaveOut notes that a section cannot be run here, if that is what the error says.
func (r *report) leaveOut(section string, err error) error {
	var absent *notRunError
	if !errors.As(err, &absent) {
		return err
	}
	r.NotRun = append(r.NotRun, section+": "+absent.why)
	return nil
}

// save writes the report as JSON and returns the file's path.
func (r *report) save(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	path := filepath.Join(dir, "bench-"+r.Time.Format("20060102-150405")+".json")
	body, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	if err := os.WriteFile(path, append(body, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	return path, nil
}

// values returns one figure of a measure's samples.
func (f *rowFound) values(name string, of func(sample) float64) []float64 {
	var v []float64
	for _, s := range f.Samples[name] {
		v = append(v, of(s))
	}
	return v
}

// cell shows the median of a figure.
func (f *rowFound) cell(name, format string, of func(sample) float64) string {
	v := f.values(name, of)
	if len(v) == 0 {
		if f.Errors[name] != "" {
			return "failed"
		}
		return "-"
	}
	middle, spread := median(v)
	if len(v) < 2 {
		return fmt.Sprintf(format, middle)
	}
	return fmt.Sprintf(format+"±"+format, middle, spread)
}

// parts shows the median of a figure of each part: their sum, and in brackets relay, node and job.
func (f *rowFound) parts(name, format string, unit float64, of func(sample) map[string]float64) string {
	if len(f.Samples[name]) == 0 {
		return f.cell(name, format, nil)
	}
	var (
		total float64
		each  []string
	)
	for _, part := range []string{"relay", "node", "job"} {
		if _, ok := of(f.Samples[name][0])[part]; !ok {
			continue
		}
		middle, _ := median(f.values(name, func(s sample) float64 { return of(s)[part] / unit }))
		total += middle
		each = append(each, fmt.Sprintf(format, middle))
	}
	if each == nil {
		return "-"
	}
	return fmt.Sprintf(format+" (%s)", total, strings.Join(each, "+"))
}

func mbps(s sample) float64                  { return s.MBps }
func cpu(s sample) map[string]float64        { return s.CPU }
func idleMemory(s sample) map[string]float64 { return s.IdleMemory }
func laneMemory(s sample) map[string]float64 { return s.LaneMemory }
func micros50(s sample) float64              { return float64(s.P50) / 1e3 }
func micros99(s sample) float64              { return float64(s.P99) / 1e3 }
func millis50(s sample) float64              { return float64(s.P50) / 1e6 }
func millis99(s sample) float64              { return float64(s.P99) / 1e6 }
func dial50(s sample) float64                { return float64(s.DialP50) / 1e6 }
func dial99(s sample) float64                { return float64(s.DialP99) / 1e6 }
func perSecond(s sample) float64             { return s.PerSecond }

// print prints the tables.
func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "%s, commit %s, %s, Linux %s, %d × %s, %s, load before %s\n",
		r.Time.Format(time.RFC3339), r.Commit, r.Go, r.Kernel, r.Cores, r.CPU, r.Congestion, r.LoadBefore)
	for _, why := range r.NotRun {
		fmt.Fprintf(w, "not run: %s\n", why)
	}
	for _, f := range r.Sections {
		switch f.Name {
		case "lan":
			r.printLAN(w, f)
		case "wan", "map":
			r.printWAN(w, f)
		default:
			f.printFaults(w)
		}
		f.printTroubles(w)
	}
	if r.LinkGB > 0 {
		fmt.Fprintf(w, "\nthe emulated link used %.2f CPU s/GB\n", r.LinkCPU/r.LinkGB)
	}
	r.printVerdicts(w)
}

func (r *report) printLAN(w io.Writer, f *section) {
	fmt.Fprintf(w, "\nloopback; %d rounds of %.1f s; medians ± half the spread\n\n", f.Rounds, f.Seconds)
	f.table(w, []string{"MB/s", "up 1", "up 8", "down 1", "down 8"}, func(f *rowFound) []string {
		return []string{
			f.cell("up1", "%.0f", mbps), f.cell("up8", "%.0f", mbps),
			f.cell("down1", "%.0f", mbps), f.cell("down8", "%.0f", mbps),
		}
	})
	f.table(w, []string{"CPU s/GB (relay+node+job)", "up 1", "up 8", "down 1", "down 8"}, func(f *rowFound) []string {
		return []string{
			f.parts("up1", "%.2f", 1, cpu), f.parts("up8", "%.2f", 1, cpu),
			f.parts("down1", "%.2f", 1, cpu), f.parts("down8", "%.2f", 1, cpu),
		}
	})
	f.table(w, []string{
		"", "round trip p50 µs", "p99 µs", "dial p50 ms", "p99 ms",
		fmt.Sprintf("dials/s by %d", r.Workers), "KB per idle stream (relay+node+job)", "per idle lane",
	}, func(f *rowFound) []string {
		return []string{
			f.cell("rtt", "%.0f", micros50), f.cell("rtt", "%.0f", micros99),
			f.cell("dial", "%.2f", millis50), f.cell("dial", "%.2f", millis99),
			f.cell("dials", "%.0f", perSecond), f.parts("idle", "%.1f", 1024, idleMemory),
			f.parts("lane", "%.1f", 1024, laneMemory),
		}
	})
}

func (r *report) printWAN(w io.Writer, f *section) {
	fmt.Fprintf(w, "\n%v; %d × %.1f s after %.1f s\n\n", f.Condition, f.Rounds, f.Seconds, r.Ramp)
	f.table(w, []string{
		"MB/s", "up 1", "down 1", "up 8", "down 8", "up 16 / down 16", "up 64 / down 64", "CPU s/GB up 1 (relay+node+job)",
		"round trip p50 / p99 ms, up 1", "down 1", "dial p50 / p99 ms, up 1", "down 1", "dial p50 ms, idle",
	}, func(f *rowFound) []string {
		return []string{
			f.cell("up1", "%.2f", mbps), f.cell("down1", "%.2f", mbps), f.cell("up8", "%.2f", mbps), f.cell("down8", "%.2f", mbps),
			f.cell("up16", "%.2f", mbps) + " / " + f.cell("down16", "%.2f", mbps),
			f.cell("up64", "%.2f", mbps) + " / " + f.cell("down64", "%.2f", mbps),
			f.parts("up1", "%.2f", 1, cpu),
			f.cell("up1", "%.0f", millis50) + " / " + f.cell("up1", "%.0f", millis99),
			f.cell("down1", "%.0f", millis50) + " / " + f.cell("down1", "%.0f", millis99),
			f.cell("up1", "%.0f", dial50) + " / " + f.cell("up1", "%.0f", dial99),
			f.cell("down1", "%.0f", dial50) + " / " + f.cell("down1", "%.0f", dial99),
			f.cell("dial", "%.0f", millis50),
		}
	})
}

func (f *section) printFaults(w io.Writer) {
	fmt.Fprintf(w, "\n%s", f.Name)
	if f.Condition != nil {
		fmt.Fprintf(w, ", %v", f.Condition)
	}
	fmt.Fprint(w, "; one stream up and one down\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\trelay\tlongest gap s\trelay restarted in s\tMB/s, the fault included")
	for _, row := range f.Rows {
		for _, fault := range faultNames() {
			for _, one := range row.Samples[fault] {
				fmt.Fprintf(t, "%s\t%s\t%.2f\t%.2f\t%.1f\n", row.Name, fault, one.Gap.Seconds(), one.Restart.Seconds(), one.MBps)
			}
		}
	}
	_ = t.Flush()
}

// printTroubles prints what was not run or failed.
func (f *section) printTroubles(w io.Writer) {
	for _, row := range f.Rows {
		if row.NotRun != "" {
			fmt.Fprintf(w, "%s: not run: %s\n", row.Name, row.NotRun)
		}
		for name, why := range row.Errors {
			fmt.Fprintf(w, "%s, %s: failed: %s\n", row.Name, name, why)
		}
		for name, samples := range row.Samples {
			for _, s := range samples {
				if s.Failed > 0 {
					fmt.Fprintf(w, "%s, %s: %d operations failed, the last one: %s\n", row.Name, name, s.Failed, s.Failure)
				}
			}
		}
	}
}

func (f *section) table(w io.Writer, head []string, cells func(*rowFound) []string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, row := range f.Rows {
		if row.NotRun != "" {
			fmt.Fprintln(t, row.Name+"\tnot run"+strings.Repeat("\t", len(head)-2)) // as many cells as the others
			continue
		}
		fmt.Fprintln(t, strings.Join(append([]string{row.Name}, cells(row)...), "\t"))
	}
	_ = t.Flush()
	fmt.Fprintln(w)
}
