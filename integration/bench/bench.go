package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// runs are what one run of the program consists of.
var runs = []struct {
	name  string
	usual bool // where no others are asked for
	run   func(context.Context, *report, site, options) error
}{
	{"lan", true, lan},
	{"wan", true, wanSection},
	{"faults", true, faultSections},
	{"map", false, mapSections},
}

func sectionNames(all bool) []string {
	var names []string
	for _, r := range runs {
		if all || r.usual {
			names = append(names, r.name)
		}
	}
	return names
}

// bench measures everything and prints and saves the report.
func bench(ctx context.Context, o options) error {
	r, err := measureAll(ctx, o)
	if r == nil {
		return err
	}
	r.judge()
	r.print(os.Stdout)
	if o.out == "" {
		return err
	}
	file, saved := r.save(o.out)
	if saved == nil {
		fmt.Println("written:", file)
	}
	return errors.Join(err, saved)
}

// measureAll measures what the options ask for. Where it is interrupted, there are an error and a report.
func measureAll(ctx context.Context, o options) (*report, error) {
	if err := raiseFiles(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ebbgate-bench-")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := site{dir: dir}
	if o.rows == nil || slices.Contains(o.only, "faults") || slices.ContainsFunc(o.rows, func(name string) bool { return strings.Contains(name, "-") }) {
		o.say("building ebbgate")
		var remove func()
		if s.binary, remove, s.noBinary = rig.Build(ctx); s.noBinary == nil {
			defer remove()
		}
	}
	r := newReport(o)
	for _, part := range runs {
		if !slices.Contains(o.only, part.name) {
			continue
		}
		if err := part.run(ctx, r, s, o); err != nil {
			return r, err
		}
	}
	return r, nil
}

// start starts a row for a section.
func (f *section) start(ctx context.Context, row row, s site, o options) (*rowFound, *path, error) {
	found := &rowFound{Name: row.name, Samples: make(map[string][]sample), Errors: make(map[string]string)}
	f.Rows = append(f.Rows, found)
	p, err := row.up(ctx, s)
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	if err != nil {
		found.NotRun = err.Error()
		var absent *notRunError
		if errors.As(err, &absent) {
			found.NotRun = absent.why
		}
		o.say("%s: not run: %s", row.name, found.NotRun)
	}
	return found, p, nil
}

// measure takes one sample of a row that is up.
func (f *rowFound) measure(ctx context.Context, m measure, p *path, o options) error {
	s, err := m.take(ctx, p, o)
	return f.note(ctx, m.name, s, err, o)
}

// note keeps a sample, or why there is none.
func (f *rowFound) note(ctx context.Context, measure string, s sample, err error, o options) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		f.Errors[measure] = err.Error()
		o.say("%s, %s: failed: %v", f.Name, measure, err)
		return nil
	}
	f.Samples[measure] = append(f.Samples[measure], s)
	o.say("%s, %s: %v", f.Name, measure, s)
	return nil
}

// lan measures all rows on loopback, in turns.
func lan(ctx context.Context, r *report, s site, o options) error {
	s.near, s.far = here, here
	o.seconds = cmp.Or(o.seconds, time.Second)
	store, addr, err := startRole(ctx, here, "store", storeInput{Listen: here.addr})
	if err != nil {
		return err
	}
	defer store.Kill()
	s.store, s.dir = addr, filepath.Join(s.dir, "lan")
	f := r.section("lan", nil)
	f.Seconds, f.Rounds = o.seconds.Seconds(), o.rounds
	paths := make(map[*rowFound]*path)
	defer func() {
		for _, p := range paths {
			p.stop()
		}
	}()
	for _, row := range rows {
		if !wanted(o.rows, lanRows, row.name) {
			continue
		}
		found, p, err := f.start(ctx, row, s, o)
		if err != nil {
			return err
		}
		if p != nil {
			paths[found] = p
			o.say("%s: up", row.name)
		}
	}
	for round := range o.rounds {
		for _, m := range measures {
			if !wanted(o.measures, nil, m.name) || (m.kind == kindIdle && round > 0) || (m.kind == kindLane && round < o.rounds-1) {
				continue
			}
			for _, found := range f.Rows {
				if paths[found] == nil || m.kind == kindLane && paths[found].way.Relay == "" {
					continue
				}
				if err := found.measure(ctx, m, paths[found], o); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// wanted tells whether a name is among the given ones, or, where none were given, among the usual ones; nil: all are.
func wanted(given, usual []string, name string) bool {
	if given == nil {
		given = usual
	}
	return given == nil || slices.Contains(given, name)
}

// say shows progress.
func (o options) say(format string, args ...any) {
	if !o.quiet {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}
