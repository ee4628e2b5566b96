// Command bench measures, in one run on loopback, what paths from a job to a store cost: direct TCP, a naive pipe,
// ssh -R, frp and chisel where they are installed, and Ebbgate by each ingress on each carrier.
//
//	go run ./integration/bench [-rows direct,naive,...] [-measures up,rtt,...] [-seconds 2] [-rounds 3]
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
	return bench(ctx, o)
}

var errUsage = errors.New("bench: wrong usage")

// options are the flags.
type options struct {
	rows     []string
	measures []string
	seconds  time.Duration // of one throughput measurement
	rounds   int
	idle     int // streams
	workers  int // that dial at once
	out      string
	quiet    bool
}

func parse(args []string) (options, error) {
	var (
		o              options
		rows, measures string
		seconds        float64
	)
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&rows, "rows", strings.Join(rowNames(), ","), "rows to measure")
	f.StringVar(&measures, "measures", strings.Join(measureNames(), ","), "what to measure")
	f.Float64Var(&seconds, "seconds", 2, "length of one throughput measurement; the others take half of it")
	f.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	f.IntVar(&o.idle, "idle", 1000, "idle streams whose memory is measured")
	f.IntVar(&o.workers, "workers", 16, "dials at a time where dials a second are measured")
	f.StringVar(&o.out, "out", "bench-out", "directory of the JSON; empty: none")
	f.BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	if err := f.Parse(args); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			err = errUsage // flag has printed why
		}
		return o, err
	}
	o.seconds = time.Duration(seconds * float64(time.Second))
	o.rows, o.measures = strings.Split(rows, ","), strings.Split(measures, ",")
	for _, list := range []struct {
		what         string
		given, known []string
	}{{"row", o.rows, rowNames()}, {"measure", o.measures, measureNames()}} {
		for _, name := range list.given {
			if !slices.Contains(list.known, name) {
				fmt.Fprintf(os.Stderr, "bench: no %s %q; there are %s\n", list.what, name, strings.Join(list.known, ", "))
				return o, errUsage
			}
		}
	}
	if o.rounds < 1 || o.seconds <= 0 || o.idle < 1 || o.workers < 1 || f.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench: numbers must be positive, and there are no arguments")
		return o, errUsage
	}
	return o, nil
}
