package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

const (
	barWidth    = 30
	barInterval = 100 * time.Millisecond
)

// screen is what a person sees. One goroutine uses it.
type screen struct {
	w    io.Writer
	live bool // a terminal: lines may be drawn over
}

// newScreen shows nothing where the result is for a program.
func newScreen(opt Options) *screen {
	if opt.JSON || opt.Stdout == nil {
		return &screen{w: io.Discard}
	}
	f, ok := opt.Stdout.(*os.File)
	return &screen{w: opt.Stdout, live: ok && term.IsTerminal(int(f.Fd()))}
}

func (s *screen) line(format string, args ...any) { fmt.Fprintf(s.w, format+"\n", args...) }

// bar gives a progress function for one copy and a function that ends it.
func (s *screen) bar(label string, total int64) (progress func(int64), finish func(Copy)) {
	start := time.Now()
	var drawn time.Time
	progress = func(n int64) {
		now := time.Now()
		if !s.live || now.Sub(drawn) < barInterval && n < total {
			return
		}
		drawn = now
		fmt.Fprintf(s.w, "\r%s", drawBar(label, n, total, now.Sub(start)))
	}
	finish = func(c Copy) {
		if s.live {
			fmt.Fprint(s.w, "\r\x1b[K")
		}
		s.line("%-6s %s in %.2f s, %s", label, size(c.Bytes), c.Seconds, rate(c.Bytes, c.Seconds))
	}
	return progress, finish
}

func drawBar(label string, n, total int64, elapsed time.Duration) string {
	share := 1.0
	if total > 0 {
		share = float64(n) / float64(total)
	}
	full := min(int(share*barWidth), barWidth)
	return fmt.Sprintf("%-6s [%s%s] %3.0f %%  %s of %s  %s ", label,
		strings.Repeat("#", full), strings.Repeat(".", barWidth-full), share*100,
		size(n), size(total), rate(n, elapsed.Seconds()))
}

// hop is one line of the table.
type hop struct {
	from, how string
	roundTrip time.Duration // 0: not measured
}

func (s *screen) table(hops []hop) {
	w := tabwriter.NewWriter(s.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nhop\thow\tround trip")
	for _, h := range hops {
		trip := "-"
		if h.roundTrip > 0 {
			trip = fmt.Sprintf("%.2f ms", milliseconds(h.roundTrip))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", h.from, h.how, trip)
	}
	w.Flush()
}

func (s *screen) digests(label string, c Copy) {
	verdict := "equal"
	if !c.Equal() {
		verdict = "DIFFERENT"
	}
	s.line("%-6s source sha256 %s\n       copy   sha256 %s  %s", label, c.SHA256Source, c.SHA256Copy, verdict)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func size(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func rate(n int64, seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MB/s", float64(n)/seconds/1e6)
}
