package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	childVariable  = "EBBGATE_DEMO_CHILD" // set for children that watch their standard input
	childReadyTime = 30 * time.Second     // from start to the ready line
	childStopTime  = 10 * time.Second     // from the request to the kill
	commandTime    = 60 * time.Second     // for a command that ends by itself
	maxReadyLine   = 64 << 10             // bytes
	maxStderr      = 8 << 10              // bytes of complaints that are kept
)

// EndWithParent makes this process end when the process that started it as part
// of a demo ends, however that happens: standard input, a pipe that nobody
// writes to, then comes to its end. In any other process it does nothing.
// Programs that [Run] starts call it first thing in main.
func EndWithParent() {
	if os.Getenv(childVariable) == "" {
		return
	}
	os.Unsetenv(childVariable)
	go exitAtEOF(os.Stdin)
}

func exitAtEOF(r io.Reader) {
	io.Copy(io.Discard, r)
	os.Exit(1)
}

// program is the ebbgate binary and where it runs.
type program struct {
	path string
	dir  string
}

// environment is this process' without what would configure the children behind
// the demo's back.
func environment(more ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "EBBGATE_") {
			env = append(env, v)
		}
	}
	return append(env, more...)
}

// run runs a command to its end and gives its standard output.
func (p program) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	// The kernel ends a child when the *thread* that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout bytes.Buffer
	stderr := &tail{limit: maxStderr}
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, environment(childVariable+"=1"), &stdout, stderr
	cmd.WaitDelay = childStopTime
	cmd.SysProcAttr = childAttributes()
	_, err := cmd.StdinPipe() // Wait closes it
	if err == nil {
		err = cmd.Run()
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, newProgramError(strings.Join(args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// child is a command that runs until it is told to stop.
type child struct {
	name   string
	cmd    *exec.Cmd
	input  io.Closer // the far end of the child's standard input
	ready  chan json.RawMessage
	stderr *tail

	done chan struct{} // closed when the process is gone
	err  error         // valid after done
}

// start starts a long-running command. Who gets a child stops it.
func (p program) start(name string, args ...string) (*child, error) {
	c := &child{
		name:   name,
		ready:  make(chan json.RawMessage, 1),
		stderr: &tail{limit: maxStderr},
		done:   make(chan struct{}),
	}
	c.cmd = exec.Command(p.path, args...)
	c.cmd.Dir, c.cmd.Env = p.dir, environment(childVariable+"=1")
	c.cmd.Stdout, c.cmd.Stderr = &readyLine{found: c.ready}, c.stderr
	c.cmd.WaitDelay = time.Second
	c.cmd.SysProcAttr = childAttributes()
	input, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, newProgramError(name, err, "")
	}
	c.input = input
	started := make(chan error, 1)
	go c.supervise(started)
	if err := <-started; err != nil {
		<-c.done
		return nil, newProgramError(name, err, "")
	}
	return c, nil
}

// supervise starts the process and waits for it on one thread (see run).
func (c *child) supervise(started chan<- error) {
	defer close(c.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := c.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	c.err = c.cmd.Wait()
}

// waitReady gives what the child printed after "ready".
func (c *child) waitReady(ctx context.Context) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, childReadyTime)
	defer cancel()
	select {
	case body := <-c.ready:
		return body, nil
	case <-c.done:
		return nil, c.failure()
	case <-ctx.Done():
		return nil, newProgramError(c.name, fmt.Errorf("not ready: %w", ctx.Err()), c.stderr.String())
	}
}

// failure says why a child that should be running is gone. Only after done.
func (c *child) failure() error {
	err := c.err
	if err == nil {
		err = errors.New("ended too early")
	}
	return newProgramError(c.name, err, c.stderr.String())
}

// stop ends the child and returns when it is gone.
func (c *child) stop() {
	timer := time.NewTimer(childStopTime)
	defer timer.Stop()
	if terminate(c.cmd.Process) != nil {
		c.cmd.Process.Kill()
	}
	select {
	case <-c.done:
	case <-timer.C:
		c.cmd.Process.Kill()
		<-c.done
	}
	c.input.Close()
}

// ProgramError is a command that failed, with what it said about it.
type ProgramError struct {
	Command string
	Err     error

	code, hop, message, advice string
}

// newProgramError takes over the error object that commands write with --json,
// and otherwise the last thing that was written.
func newProgramError(command string, err error, stderr string) *ProgramError {
	e := &ProgramError{Command: command, Err: err, code: "demo-failed", message: strings.TrimSpace(stderr)}
	for line := range strings.Lines(stderr) {
		var told struct {
			Error struct{ Code, Hop, Message, Advice string }
		}
		if json.Unmarshal([]byte(line), &told) == nil && told.Error.Code != "" {
			e.code, e.hop = told.Error.Code, told.Error.Hop
			e.message, e.advice = told.Error.Message, told.Error.Advice
		}
	}
	return e
}

func (e *ProgramError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("demo: %s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("demo: %s: %v: %s", e.Command, e.Err, e.message)
}

// Unwrap gives the error of the process.
func (e *ProgramError) Unwrap() error { return e.Err }

// Code is the command's own, where it gave one.
func (e *ProgramError) Code() string { return e.code }

// Hop names the part of the path that failed.
func (e *ProgramError) Hop() string { return e.hop }

// Advice says what to do about it.
func (e *ProgramError) Advice() string { return e.advice }

// readyLine finds the line `ready {json}` in what is written to it and forgets
// the rest. One goroutine writes.
type readyLine struct {
	found chan<- json.RawMessage // capacity 1
	line  []byte
	done  bool
}

func (r *readyLine) Write(b []byte) (int, error) {
	size := len(b)
	for !r.done && len(b) > 0 {
		part, rest, complete := bytes.Cut(b, []byte("\n"))
		b = rest
		if r.line = append(r.line, part...); len(r.line) > maxReadyLine {
			r.done = true
			break
		}
		if !complete {
			break
		}
		if body, ok := bytes.CutPrefix(r.line, []byte("ready ")); ok && json.Valid(body) {
			r.found <- json.RawMessage(bytes.Clone(body))
			r.done = true
		}
		r.line = r.line[:0]
	}
	return size, nil
}

// tail keeps the last bytes that were written to it.
type tail struct {
	limit int

	mu sync.Mutex // guards b
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - t.limit; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
