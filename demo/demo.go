package demo

import (
	"context"
	"io"
)

// Options is what `ebbgate demo` was asked to do.
type Options struct {
	// File is the file that is copied both ways; empty: random ones are made.
	File string
	// Size is how many bytes a made file has; 0: 256 MiB.
	Size int64
	// JSON prints one [Result] at the end and nothing else on Stdout.
	JSON bool
	// Program is the ebbgate binary to run; empty: the one that runs now.
	Program string
	// Stdout and Stderr take results and what the children complain about; nil
	// discards. Progress is drawn where Stdout is a terminal.
	Stdout, Stderr io.Writer
}

// Run runs the demo. It returns when everything that it started has ended. The
// error, if any, has also been told in the JSON object.
func Run(ctx context.Context, opt Options) error { panic("todo") }

// EndWithParent makes this process end when the process that started it as part
// of a demo ends, however that happens. It does nothing in any other process.
// Programs that Run starts call it first thing in main.
func EndWithParent() { panic("todo") }
