// Command bench measures what paths from a job to a store cost: direct TCP, a naive pipe,
// ssh -R, frp and chisel where they are installed, and Ebbgate by each ingress on each carrier.
//
//	go run ./integration/bench [-only lan,wan,faults] [-rows direct,naive,...] [-measures up1,rtt,...] [-seconds 2]
//	go run ./integration/bench -only wan -rows forward-tls -loss 0.01 -congestion cubic,allowed -seconds 5
//
// Section lan is loopback. Section wan, which needs root, is the link of package wan, 80 ms and 200 Mbit/s, with and
// without loss, where Cubic is the only congestion control, where BBR is the default, and where Cubic is the default but
// a program may choose BBR. There, throughput is what the receiver counts after a ramp, while small messages go to and
// fro and streams are dialled beside it. Section faults restarts, freezes and kills relays while a stream flows each
// way. Section map, which runs only when it is asked for, goes over many delays and losses; -draw FILE,... draws its JSON
// as SVG. The last table says which of the project's bars were reached.
//
// Every part of every path is a process of its own, and so are the load and the store. Rounds are interleaved: each
// round takes every measurement of every row once, so that a drift of the machine meets all rows alike. The table
// shows medians and, with ±, half the distance between the smallest and the largest. Compare ratios of one run.
// CPU time comes from the kernel's accounts of each process (and its children): user and system.
//
// The naive pipe is two processes: plain TCP in, one TLS connection a stream, plain TCP out, io.Copy.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// roleEnv tells a re-executed bench what it is.
const roleEnv = "EBBGATE_BENCH_ROLE"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if name, ok := os.LookupEnv(roleEnv); ok {
		r, known := roles[name]
		if !known {
			return fmt.Errorf("bench: BUG: no role %q", name)
		}
		return r(ctx)
	}
	o, err := parse(os.Args[1:])
	if err != nil {
		return err
	}
	if o.draw != "" {
		return drawFiles(os.Stdout, strings.Split(o.draw, ","))
	}
	return bench(ctx, o)
}

var errUsage = errors.New("bench: wrong usage")

// options are the flags.
type options struct {
	only       []string // sections
	rows       []string // nil: each section's own
	measures   []string // nil: each section's own
	losses     []float64
	congestion []string
	seconds    time.Duration // of one throughput measurement; 0: as is usual in each section
	ramp       time.Duration // before it, on the long way
	rounds     int           // on loopback
	wanRounds  int
	idle       int // streams
	workers    int // that dial at once
	out        string
	draw       string          // JSON files
	rtts       []time.Duration // of the map
	quiet      bool
}

func parse(args []string) (options, error) {
	var (
		o             options
		seconds, ramp float64
		f             = flag.NewFlagSet("bench", flag.ContinueOnError)
	)
	list := func(into *[]string, name, usage string, known []string) {
		f.Func(name, usage+": "+strings.Join(known, ","), func(text string) error {
			*into = strings.Split(text, ",")
			for _, given := range *into {
				if !slices.Contains(known, given) {
					return fmt.Errorf("there is no %q", given)
				}
			}
			return nil
		})
	}
	list(&o.only, "only", "sections; default "+strings.Join(sectionNames(false), ",")+"; of", sectionNames(true))
	list(&o.rows, "rows", "rows; default those that are usual in each section", rowNames())
	list(&o.measures, "measures", "measures; default those that are usual in each section",
		slices.Compact(slices.Sorted(slices.Values(slices.Concat(measureNames(measures), measureNames(wanMeasures), faultNames())))))
	list(&o.congestion, "congestion", "congestion control on the long way", []string{onlyCubic, defaultBBR, allowingBBR})
	f.Func("loss", "shares of packets lost on the long way; default 0,0.01", func(text string) error {
		for field := range strings.SplitSeq(text, ",") {
			share, err := strconv.ParseFloat(field, 64)
			if err != nil || share < 0 || share >= 1 {
				return errors.New("a share is from 0 to below 1")
			}
			o.losses = append(o.losses, share)
		}
		return nil
	})
	f.Func("rtt", "round trips of the map, such as 80ms; default all", func(text string) error {
		for field := range strings.SplitSeq(text, ",") {
			d, err := time.ParseDuration(field)
			if err != nil || !slices.Contains(mapRTTs, d) {
				return fmt.Errorf("the map has %v", mapRTTs)
			}
			o.rtts = append(o.rtts, d)
		}
		return nil
	})
	f.Float64Var(&seconds, "seconds", 0, "length of one throughput measurement; the others take half of it; "+
		"default 1 on loopback, 3 on the long way")
	f.Float64Var(&ramp, "ramp", 3, "seconds before it that do not count, on the long way")
	f.IntVar(&o.rounds, "rounds", 2, "how often everything is measured on loopback")
	f.IntVar(&o.wanRounds, "wan-rounds", 1, "how often everything is measured on the long way")
	f.IntVar(&o.idle, "idle", 1000, "idle streams whose memory is measured; ten times as many where there is a bar")
	f.IntVar(&o.workers, "workers", 16, "dials at a time where dials a second are measured")
	f.StringVar(&o.out, "out", "bench-out", "directory of the JSON; empty: none")
	f.StringVar(&o.draw, "draw", "", "measure nothing, but draw the map in these JSON files as SVG on standard output")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	if err := f.Parse(args); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			err = errUsage // flag has printed why
		}
		return o, err
	}
	if o.only == nil {
		o.only = sectionNames(false)
	}
	o.seconds = time.Duration(seconds * float64(time.Second))
	o.ramp = time.Duration(ramp * float64(time.Second)).Round(slot)
	if o.rounds < 1 || o.wanRounds < 1 || o.seconds < 0 || o.ramp < 0 || o.idle < 1 || o.workers < 1 || f.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench: numbers must be positive, and there are no arguments")
		return o, errUsage
	}
	return o, nil
}
