// Command ebbgate is all of Ebbgate in one binary: the relay, the connector, the
// job's side, administration and the demo. This package is the command tree and
// the wiring, nothing else.
//
// Exit codes are 0 done, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/ebbgate/ebbgate/demo"
)

// version is set by the Makefile.
var version = ""

func main() {
	demo.EndWithParent()
	os.Exit(run(os.Args[1:]))
}

// run runs a command line and gives the exit code. The first SIGINT or SIGTERM
// ends its context, the second the process.
func run(args []string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(1)
	}()
	app := newApp(os.Stdin, os.Stdout, os.Stderr)
	root := app.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var wrong *usageError
	if errors.As(err, &wrong) || !app.started {
		app.printError(&usageError{err})
		return 2
	}
	app.printError(err)
	return 1
}

// software names this program and its version to peers.
func software() string { return "ebbgate/" + versionText() }

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// usageError is a command line that is none.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

// Unwrap is what was wrong.
func (e *usageError) Unwrap() error { return e.err }

// Code names the error.
func (e *usageError) Code() string { return "usage" }

// Hop is the command line.
func (e *usageError) Hop() string { return "config" }

// Advice says what to do.
func (e *usageError) Advice() string {
	return "ebbgate --help shows the commands, ebbgate COMMAND --help one of them"
}

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }
