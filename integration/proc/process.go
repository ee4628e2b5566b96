package proc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Starter starts a command somewhere: on this machine, or on a host of a lab. It must not return before the
// command was forked.
type Starter interface {
	Start(cmd *exec.Cmd) error
}

// Spec describes a process. Zero values mean: this machine, the program's own environment and directory, no input.
type Spec struct {
	Name   string // in messages; default: the path's
	Path   string // looked up in PATH
	Args   []string
	Env    []string // added to the program's own
	Dir    string
	Stdin  io.Reader
	Stdout io.Writer         // gets the standard output; then there are no lines and no ready line
	Lines  func(line string) // is told each line of standard output; must not block for long
	Attr   *syscall.SysProcAttr
	Where  Starter // default: this machine
}

// Process is a running child. Its methods are safe for concurrent use.
type Process struct {
	name  string
	cmd   *exec.Cmd
	ready chan json.RawMessage // capacity 1
	done  chan struct{}        // closed after err was set
	err   error
	out   *tail // standard output and standard error, for messages
}

// How much of a process' output is kept, and how much of that is shown in messages.
const (
	keep = 4 << 20
	show = 8 << 10
)

// Start starts a process.
func Start(spec Spec) (*Process, error) {
	p := &Process{
		name:  spec.Name,
		ready: make(chan json.RawMessage, 1),
		done:  make(chan struct{}),
		out:   &tail{max: keep},
	}
	if p.name == "" {
		p.name = spec.Path
	}
	p.cmd = exec.Command(spec.Path, spec.Args...)
	p.cmd.Env = append(os.Environ(), spec.Env...)
	p.cmd.Dir = spec.Dir
	p.cmd.Stdin = spec.Stdin
	p.cmd.Stderr = p.out
	p.cmd.Stdout = spec.Stdout
	if spec.Stdout == nil {
		p.cmd.Stdout = &lines{each: func(line string) { p.line(line, spec.Lines) }}
	}
	p.cmd.SysProcAttr = attr(spec.Attr)
	p.cmd.WaitDelay = 10 * time.Second // for grandchildren that keep the output open
	where := spec.Where
	if where == nil {
		where = here()
	}
	if err := where.Start(p.cmd); err != nil {
		return nil, fmt.Errorf("proc: start %s: %w", p.name, err)
	}
	go p.wait()
	return p, nil
}

func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

func (p *Process) line(line string, each func(string)) {
	fmt.Fprintln(p.out, line)
	if body, ok := strings.CutPrefix(line, "ready "); ok {
		select {
		case p.ready <- json.RawMessage(body):
		default:
		}
	}
	if each != nil {
		each(line)
	}
}

// Name returns the name that the process has in messages.
func (p *Process) Name() string { return p.name }

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the process has ended and was waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Output returns what the process wrote, or the last 4 MiB of that.
func (p *Process) Output() string { return p.out.last(keep) }

// Tail returns the end of what the process wrote, for messages.
func (p *Process) Tail() string { return p.out.last(show) }

// Ready waits for the process to print `ready {json}` and decodes the JSON into v. It may be called once.
func (p *Process) Ready(ctx context.Context, v any) error {
	select {
	case body := <-p.ready:
		if err := json.Unmarshal(body, v); err != nil {
			return fmt.Errorf("proc: %s: ready line: %w", p.name, err)
		}
		return nil
	case <-p.done:
		return p.Failure("ended before it was ready")
	case <-ctx.Done():
		return p.Failure("is not ready: " + ctx.Err().Error())
	}
}

// ExitError says that a process failed, and shows the end of its output.
type ExitError struct {
	Name   string
	What   string
	Err    error // the process's end, if it ended
	Output string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("proc: %s: %s (%v); its output ends:\n%s", e.Name, e.What, e.Err, e.Output)
}

func (e *ExitError) Unwrap() error { return e.Err }

// Failure makes an error about the process that shows the end of its output.
func (p *Process) Failure(what string) error {
	e := &ExitError{Name: p.name, What: what, Output: p.Tail()}
	select {
	case <-p.done:
		e.Err = p.err
	default:
	}
	return e
}

// Wait waits for the end of the process. Any end but exit status 0 is an *ExitError.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return p.Failure("still runs: " + ctx.Err().Error())
	}
	if p.err != nil {
		return p.Failure("failed")
	}
	return nil
}

// Signal sends a signal to the process. An ended process is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("proc: %s: signal: %w", p.name, err)
	}
	return nil
}

// Kill kills the process (SIGKILL) and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end (SIGTERM), kills it after the timeout, and waits for its end. It returns an error
// if the process had to be killed or failed.
func (p *Process) Stop(timeout time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := p.Wait(ctx)
	if ctx.Err() != nil {
		p.Kill()
	}
	return err
}

// Run runs a process to its end and returns what it wrote on standard output, unless spec.Stdout is set. When the
// context ends first, the process is killed. Any exit status but 0 is an *ExitError.
func Run(ctx context.Context, spec Spec) ([]byte, error) {
	var out bytes.Buffer
	if spec.Stdout == nil {
		spec.Stdout = &out
	}
	p, err := Start(spec)
	if err != nil {
		return nil, err
	}
	err = p.Wait(ctx)
	if err != nil && ctx.Err() != nil {
		p.Kill()
	}
	return out.Bytes(), err
}

// tail is a writer that keeps the last bytes that it was given.
type tail struct {
	max int

	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > t.max {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// last returns the last n bytes, if so many were kept.
func (t *tail) last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf[max(0, len(t.buf)-min(n, t.max)):])
}

// lines is a writer that cuts what it is given into lines. A last line without an end is lost.
type lines struct {
	each func(string)
	part []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.part = append(l.part, p...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.each(string(l.part[:i]))
		l.part = l.part[i+1:]
	}
}
