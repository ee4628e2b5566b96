package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// A curve is a row under a congestion control.
type curve struct {
	row, congestion string
	label, colour   string
}

var curves = []curve{
	{"forward-tls", allowingBBR, "Ebbgate, BBR allowed", "#0f766e"},
	{"forward-tls", onlyCubic, "Ebbgate, Cubic only", "#14b8a6"},
	{"naive", onlyCubic, "one TLS connection a stream, Cubic", "#b45309"},
	{"ssh", onlyCubic, "ssh -R, Cubic", "#7c3aed"},
}

// The drawing's measures, in pixels.
const (
	panelWidth, panelHeight = 240, 220
	left, top               = 52, 46
	between                 = 20
	drawHeight              = top + panelHeight + 96
)

// drawFiles draws the map of saved reports. Where two have the same point, the later one counts.
func drawFiles(w io.Writer, files []string) error {
	var all report
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		var r report
		if err := json.Unmarshal(body, &r); err != nil {
			return fmt.Errorf("bench: %s: %w", file, err)
		}
		all.Time, all.Commit, all.LoadBefore = r.Time, r.Commit, r.LoadBefore
		all.Sections = append(r.Sections, all.Sections...)
	}
	svg, err := all.draw()
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, svg)
	return err
}

// at returns what the map has at a point.
func (r *report) at(c curve, rtt time.Duration, loss float64) (float64, bool) {
	for _, s := range r.Sections {
		if s.Name == "map" && s.Condition.RTT == rtt && s.Condition.Loss == loss && s.Condition.Congestion == c.congestion {
			if v, ok := of(s, c.row, "down1", mbps); ok {
				return v, true
			}
		}
	}
	return 0, false
}

// draw returns an SVG with a panel for each delay: throughput over loss.
func (r *report) draw() (string, error) {
	var b strings.Builder
	width := left + len(mapRTTs)*(panelWidth+between)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12">`+"\n",
		width, drawHeight)
	fmt.Fprintf(&b, `<title>Throughput of one stream over loss and delay, 200 Mbit/s</title>`+"\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, drawHeight)
	text(&b, left, 18, "start", "#111827", "One stream down a link of 200 Mbit/s: MB/s over loss")
	drawn := 0
	for i, rtt := range mapRTTs {
		drawn += r.panel(&b, left+i*(panelWidth+between), rtt, i == 0)
	}
	if drawn == 0 {
		return "", fmt.Errorf("bench: there is no map to draw; measure it with -only map")
	}
	for i, c := range curves {
		x, y := left+(i%2)*(width-left)/2, top+panelHeight+52+(i/2)*20
		fmt.Fprintf(&b, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="%s" stroke-width="2.5"/>`+"\n", x, y-4, x+22, y-4, c.colour)
		text(&b, x+28, y, "start", "#111827", c.label)
	}
	day, load := r.Time.Format(time.DateOnly), ""
	if before, _, ok := strings.Cut(r.LoadBefore, " "); ok {
		load = ", load " + before
	}
	text(&b, width-between, drawHeight-6, "end", "#6b7280", "measured "+day+" at "+r.Commit+load+"; see docs/benchmarks.md")
	b.WriteString("</svg>\n")
	return b.String(), nil
}

// highest is the top of the scale, a little more than the link carries.
const highest = 25.0

// panel draws one delay's panel and returns how many points it has.
func (r *report) panel(b *strings.Builder, x int, rtt time.Duration, scale bool) (points int) {
	bottom := top + panelHeight
	height := func(mbps float64) float64 { return float64(bottom) - min(mbps, highest)/highest*panelHeight }
	across := func(i int) float64 { return float64(x) + 16 + float64(i)*(panelWidth-32)/float64(len(mapLosses)-1) }
	for v := 0.0; v <= highest; v += 5 {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e5e7eb"/>`+"\n", x, height(v), x+panelWidth, height(v))
		if scale {
			text(b, x-6, int(height(v))+4, "end", "#6b7280", fmt.Sprintf("%.0f", v))
		}
	}
	text(b, x+panelWidth/2, top-8, "middle", "#374151", fmt.Sprintf("%d ms round trip", rtt.Milliseconds()))
	for i, loss := range mapLosses {
		text(b, int(across(i)), bottom+18, "middle", "#6b7280", fmt.Sprintf("%g %%", loss*100))
	}
	for _, c := range curves {
		var path []string
		for i, loss := range mapLosses {
			v, ok := r.at(c, rtt, loss)
			if !ok {
				continue
			}
			points++
			path = append(path, fmt.Sprintf("%.1f,%.1f", across(i), height(v)))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s: %.2f MB/s</title></circle>`+"\n",
				across(i), height(v), c.colour, c.label, v)
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2.5"/>`+"\n", strings.Join(path, " "), c.colour)
	}
	return points
}

func text(b *strings.Builder, x, y int, anchor, colour, what string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, colour, what)
}
