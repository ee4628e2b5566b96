package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync"
)

// Exit codes of a command that did not run, as shells give them, and of one that
// succeeded while a stream did not.
const (
	ExitBroken        = 125
	ExitNotExecutable = 126
	ExitNotFound      = 127
)

// Child is a command that runs beside this process' streams: a job that speaks
// to stores by local ports.
type Child struct {
	// Command is a path, or a name that is looked up in PATH.
	Command string
	Args    []string
	// Env is added to this process' environment.
	Env []string
	// Stdin, Stdout and Stderr are handed on as they are.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Logger takes the signals that are passed on; nil discards.
	Logger *slog.Logger
}

// commandError is a command that could not be run; its ExitCode says which of
// the two it was.
func commandError(command string, err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &Error{
			exit: ExitNotFound, code: "command-not-found", hop: "config", message: "there is no command " + command, err: err,
			advice: "correct its name, or give its path",
		}
	}
	return &Error{
		exit: ExitNotExecutable, code: "command-not-executable", hop: "config", message: command + " cannot be run", err: err,
		advice: "see whether it is a program for this machine that this user may run",
	}
}

// Find says whether the command is there, so that nothing is begun for one that
// is not. Its error is an [*Error] with an ExitCode.
func (c *Child) Find() error {
	if _, err := exec.LookPath(c.Command); err != nil {
		return commandError(c.Command, err)
	}
	return nil
}

// Run runs the command to its end and gives its exit code; one that a signal
// ended has 128 and the signal's number. Signals that reach this process are
// passed on, except those that a terminal sends to the child itself. The child
// belongs to this process' group. Its error is an [*Error] with an ExitCode.
func (c *Child) Run() (exit int, err error) {
	cmd := exec.Command(c.Command, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	signals := make(chan os.Signal, 8)
	for _, s := range passedOn {
		if !signal.Ignored(s) { // as nohup does
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, commandError(c.Command, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var passing sync.WaitGroup
	passing.Go(func() { c.pass(ctx, signals, cmd.Process) })
	err = cmd.Wait()
	cancel()
	passing.Wait()
	if state := cmd.ProcessState; state != nil {
		return exitCode(state), nil
	}
	return 0, commandError(c.Command, err)
}

// pass passes signals on.
func (c *Child) pass(ctx context.Context, signals <-chan os.Signal, child *os.Process) {
	for {
		select {
		case s := <-signals:
			if sentByTerminal(s) {
				continue
			}
			if err := child.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) && c.Logger != nil {
				c.Logger.Warn("a signal is not passed on", "signal", s.String(), "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
