// Command ebbgate is all of Ebbgate in one binary: the relay, the connector, the
// job's side, administration and the demo. This package is the command tree and
// the wiring, nothing else.
//
// Exit codes are 0 done, 1 failed, 2 wrong usage; exec has those of its command.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/demo"
)

// version is set by the Makefile.
var version = ""

func main() {
	demo.EndWithParent()
	// In a container that may take less than the machine has, GOMEMLIMIT says so.
	_, _ = memlimit.Set(memlimit.WithProvider(memlimit.FromCgroup))
	// The second signal is not caught any more: it ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(newApp(os.Stdin, os.Stdout, os.Stderr).run(ctx, os.Args[1:]))
}

// run runs a command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if over, ok := errors.AsType[*exitError](err); ok {
		if over.err != nil {
			a.printError(over.err)
		}
		return over.code
	}
	wrong, ok := errors.AsType[*usageError](err)
	if bad, is := errors.AsType[*config.Error](err); is && bad.Usage() {
		wrong, ok = &usageError{message: bad.Error()}, true
	}
	if !ok && a.started {
		a.printError(err)
		if e, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err); ok {
			return e.ExitCode()
		}
		return 1
	}
	if !ok {
		wrong = &usageError{message: err.Error()}
	}
	wrong.command = cmd
	a.json = a.json || asksForJSON(args)
	a.printError(wrong)
	return 2
}

// exitError ends the process with another code than a failure's.
type exitError struct {
	code int
	err  error // to be printed; nil: nothing
}

func (e *exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

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
