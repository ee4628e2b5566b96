//go:build linux

package stores

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// underWay is how much of a copy arrives before it is cut; whatever is buffered on the way is less than big.
const (
	underWay = 1 << 20
	huge     = 256 << 20
)

// valve is a writer that stops, until it is opened, when so much was written that a copy is under way.
type valve struct {
	reached chan struct{} // closed then
	opened  chan struct{}

	mu   sync.Mutex
	n    int64
	once sync.Once
}

func newValve() *valve {
	return &valve{reached: make(chan struct{}), opened: make(chan struct{})}
}

// Write implements io.Writer.
func (v *valve) Write(p []byte) (int, error) {
	v.mu.Lock()
	v.n += int64(len(p))
	enough := v.n >= underWay
	v.mu.Unlock()
	if enough {
		v.once.Do(func() { close(v.reached) })
		<-v.opened
	}
	return len(p), nil
}

func (v *valve) len() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.n
}

// cut runs a command (with exec, so that it is the client's process) that prints what it downloads, stops reading that, kills something, and reads on. The command
// must fail, and must not have printed everything.
func (s *stage) cut(ctx context.Context, t *testing.T, what, command string, size int64, kill func()) {
	t.Helper()
	v := newValve()
	spec := s.shell(command)
	spec.Stdout = v
	p, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	open := sync.OnceFunc(func() { close(v.opened) })
	defer open()
	select {
	case <-v.reached:
	case <-p.Done():
		t.Fatal(p.Failure("ended before it was cut"))
	case <-ctx.Done():
		t.Fatal(p.Failure("makes no progress"))
	}
	kill()
	open()
	failed(ctx, t, what, p)
	if v.len() >= size {
		t.Errorf("%s: %q printed %d bytes of %d: it was not under way", what, command, v.len(), size)
	}
}

// cutFile runs a command that downloads into a file, slowly, and kills something as soon as the file grows. The command
// must fail. The file is looked for in the stage's folder by a pattern.
func (s *stage) cutFile(ctx context.Context, t *testing.T, what, command, pattern string, kill func()) {
	t.Helper()
	p, err := proc.Start(s.shell(command))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !grown(t, filepath.Join(s.dir, pattern)) {
		select {
		case <-tick.C:
		case <-p.Done():
			t.Fatal(p.Failure("ended before it was cut"))
		case <-ctx.Done():
			t.Fatal(p.Failure("makes no progress"))
		}
	}
	kill()
	failed(ctx, t, what, p)
}

// grown tells whether a file has some of what a copy brings.
func grown(t *testing.T, pattern string) bool {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Size() >= underWay {
			return true
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return false
}

// failed waits for a client that must fail, and shows what it says.
func failed(ctx context.Context, t *testing.T, what string, p *proc.Process) {
	t.Helper()
	err := p.Wait(ctx)
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Errorf("%s: %s succeeds: %s", what, p.Name(), p.Tail())
	case !errors.As(err, &exit) || ctx.Err() != nil:
		t.Errorf("%s: %v", what, err)
	default: // a signal is an end, too: sftp dies of SIGPIPE if its ssh was faster
		said := strings.TrimSpace(p.Tail())
		t.Logf("%s: %v: %s", what, exit, said[strings.LastIndexByte(said, '\n')+1:])
	}
}
