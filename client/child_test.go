//go:build unix

package client

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

func TestChildExits(t *testing.T) {
	for script, want := range map[string]int{"true": 0, "exit 3": 3, "kill -KILL $$": 137, "kill -TERM $$": 143} {
		if exit, err := (&Child{Command: "sh", Args: []string{"-c", script}}).Run(); exit != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", script, exit, err, want)
		}
	}
}

func TestChildHasItsStreamsAndVariables(t *testing.T) {
	var out, errs bytes.Buffer
	c := &Child{
		Command: "sh", Args: []string{"-c", `read line; echo "$line $VARIABLE"; echo trouble >&2`},
		Env: []string{"VARIABLE=set"}, Stdin: strings.NewReader("given\n"), Stdout: &out, Stderr: &errs,
	}
	if exit, err := c.Run(); exit != 0 || err != nil || out.String() != "given set\n" || errs.String() != "trouble\n" {
		t.Errorf("%d, %v, %q, %q", exit, err, out.String(), errs.String())
	}
}

func TestChildThatCannotRun(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/text", []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]int{"no-such-command": ExitNotFound, dir + "/none": ExitNotFound, dir + "/text": ExitNotExecutable, dir: ExitNotExecutable} {
		c := &Child{Command: command}
		_, err := c.Run()
		for _, err := range []error{c.Find(), err} {
			var e *Error
			if !errors.As(err, &e) || e.ExitCode() != want || e.Hop() != "config" || e.Advice() == "" {
				t.Errorf("%s: %v, want exit %d", command, err, want)
			}
		}
	}
}

// Signals of this process reach the child, and this process goes on.
func TestChildGetsSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1} {
		if signal.Ignored(sig) {
			t.Logf("%v is ignored here, as under nohup: not tested", sig)
			continue
		}
		reader, writer := io.Pipe()
		c := &Child{Command: "sh", Stdout: writer, Args: []string{"-c", `
			trap "echo TERM; exit 5" TERM
			trap "echo HUP; exit 5" HUP
			trap "echo USR1; exit 5" USR1
			echo waiting
			i=0; while [ $i -lt 600 ]; do sleep 0.1; i=$((i+1)); done`}}
		said := make(chan string, 1)
		go func() {
			waiting := make([]byte, len("waiting\n"))
			_, _ = io.ReadFull(reader, waiting)
			_ = syscall.Kill(os.Getpid(), sig)
			rest, _ := io.ReadAll(reader)
			said <- string(rest)
		}()
		exit, err := c.Run()
		writer.Close()
		if got := <-said; exit != 5 || err != nil || !strings.HasPrefix("SIG"+got, "SIG"+signalName(sig)) {
			t.Errorf("%v: exit %d, %v, the child said %q", sig, exit, err, got)
		}
	}
}

func signalName(s syscall.Signal) string {
	return map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGHUP: "HUP", syscall.SIGUSR1: "USR1"}[s]
}
