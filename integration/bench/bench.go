package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// bench runs everything and prints and saves the report.
func bench(ctx context.Context, o options) error {
	if err := raiseFiles(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ebbgate-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, addr, err := startRole(ctx, "store", nil)
	if err != nil {
		return err
	}
	defer store.Kill()
	s := &site{store: addr, dir: dir}
	if slices.ContainsFunc(o.rows, func(name string) bool { return strings.Contains(name, "-") }) {
		o.say("building ebbgate")
		var remove func()
		if s.binary, remove, s.noBinary = rig.Build(ctx); s.noBinary == nil {
			defer remove()
		}
	}
	r := newReport(o)
	paths := make(map[*rowFound]*path)
	defer func() {
		for _, p := range paths {
			p.stop()
		}
	}()
	for _, row := range rows {
		if !slices.Contains(o.rows, row.name) {
			continue
		}
		found := &rowFound{Name: row.name, Samples: make(map[string][]sample), Errors: make(map[string]string)}
		r.Rows = append(r.Rows, found)
		p, err := row.start(ctx, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			found.NotRun = err.Error()
			var absent *notRunError
			if errors.As(err, &absent) {
				found.NotRun = absent.why
			}
			o.say("%s: not run: %s", row.name, found.NotRun)
			continue
		}
		paths[found] = p
		o.say("%s: up", row.name)
	}
	for round := range o.rounds {
		for _, m := range measures {
			if !slices.Contains(o.measures, m.name) || (m.kind == kindIdle && round > 0) {
				continue
			}
			for _, found := range r.Rows {
				if paths[found] == nil {
					continue
				}
				sample, err := m.take(ctx, paths[found], o)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					found.Errors[m.name] = err.Error()
					o.say("round %d, %s, %s: failed: %v", round+1, found.Name, m.name, err)
					continue
				}
				found.Samples[m.name] = append(found.Samples[m.name], sample)
				o.say("round %d, %s, %s: %v", round+1, found.Name, m.name, sample)
			}
		}
	}
	r.print(os.Stdout)
	if o.out == "" {
		return nil
	}
	file, err := r.save(o.out)
	if err != nil {
		return err
	}
	fmt.Println("written:", file)
	return nil
}

// say shows progress.
func (o options) say(format string, args ...any) {
	if !o.quiet {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}
