package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The test's own program, run once more with this in its environment, is a relay
// that can be killed.
const (
	childMode = "EBBGATE_STATE_TEST_CHILD"
	childDir  = "EBBGATE_STATE_TEST_DIR"
	childKey  = "EBBGATE_STATE_TEST_KEY"
	childStep = "EBBGATE_STATE_TEST_STEP"
)

func child(mode string) int {
	opt := Options{Dir: os.Getenv(childDir), KeyFile: os.Getenv(childKey)}
	run := map[string]func(context.Context, Options) error{"init": childInit, "write": childWrite}[mode]
	if err := run(context.Background(), opt); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// killSelf ends the process as kill -9 does, with nothing flushed or unlocked.
func killSelf() {
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// childInit is killed after a step.
func childInit(ctx context.Context, opt Options) error {
	return initializer{opt: opt, files: opt.files(), step: func(done string) {
		if done == os.Getenv(childStep) {
			killSelf()
		}
	}}.run(ctx)
}

// childWrite makes gateways until it is killed and prints each that was made.
func childWrite(ctx context.Context, opt Options) error {
	s, err := Open(ctx, opt)
	if err != nil {
		return err
	}
	for i := len(s.Gateways(DefaultTenant)); ; i++ {
		name := fmt.Sprintf("g-%06d", i)
		if _, err := s.CreateGateway(ctx, DefaultTenant, name); err != nil {
			return err
		}
		fmt.Println(name)
		if _, err := s.RegenerateKey(ctx, DefaultTenant, name, Key2); err != nil {
			return err
		}
	}
}

func childCommand(t *testing.T, mode string, opt Options, environment ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(append(os.Environ(), childMode+"="+mode, childDir+"="+opt.Dir, childKey+"="+opt.KeyFile), environment...)
	return c
}

// TestInitKilled kills an Init after each of its steps. What follows, an Open or
// an Init, finds nothing or all.
func TestInitKilled(t *testing.T) {
	t.Parallel()
	var steps []string
	opt := options(t)
	if err := (initializer{opt: opt, files: opt.files(), step: func(done string) { steps = append(steps, done) }}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 9 {
		t.Fatalf("steps: %v", steps)
	}
	for i, step := range steps {
		complete := i >= indexOf(steps, "complete")
		for _, elsewhere := range []bool{false, true} {
			if elsewhere && !strings.HasPrefix(step, "placed") {
				continue
			}
			opt := Options{Dir: filepath.Join(scratch(t), "state")}
			if elsewhere {
				opt.KeyFile = filepath.Join(scratch(t), "key")
			}
			c := childCommand(t, "init", opt, childStep+"="+step)
			out, err := c.CombinedOutput()
			if c.ProcessState == nil || c.ProcessState.Exited() && c.ProcessState.ExitCode() != 1 {
				t.Fatalf("%s: not killed: %v: %s", step, err, out)
			}
			if len(out) > 0 {
				t.Fatalf("%s: %s", step, out)
			}
			s, err := Open(t.Context(), opt)
			if !complete {
				wantError(t, err, ErrMissing, "state-missing")
				mustInit(t, opt)
			} else if err != nil {
				t.Fatalf("killed after %q: %v", step, err)
			} else if err := s.Close(); err != nil {
				t.Error(err)
			}
			mustOpen(t, opt)
			wantError(t, Init(t.Context(), opt), ErrInUse, "state-in-use")
			leftovers, _ := filepath.Glob(filepath.Join(opt.Dir, "*init*"))
			fresh, _ := filepath.Glob(filepath.Join(opt.Dir, "*.new"))
			if all := append(leftovers, fresh...); len(all) > 0 {
				t.Errorf("killed after %q: left behind: %v", step, all)
			}
		}
	}
}

// TestInitFinished lets Init itself go on from where one was killed.
func TestInitFinished(t *testing.T) {
	opt := Options{Dir: filepath.Join(scratch(t), "state")}
	_ = childCommand(t, "init", opt, childStep+"=placed "+nameKey).Run()
	if there, _ := exists(opt.files().staged); !there {
		t.Fatal("the child was not killed in time")
	}
	mustInit(t, opt)
	wantError(t, Init(t.Context(), opt), ErrExists, "state-exists")
	mustOpen(t, opt)
}

// TestInitRival finds another database where a killed Init wanted to put its own.
func TestInitRival(t *testing.T) {
	opt := Options{Dir: filepath.Join(scratch(t), "state")}
	_ = childCommand(t, "init", opt, childStep+"=complete").Run()
	for _, name := range []string{nameDatabase, nameKey} {
		path := filepath.Join(opt.Dir, name)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), opt)
		wantCorrupt(t, err, "cut off")
		wantCorrupt(t, Init(t.Context(), opt), "cut off")
		if raw, err := os.ReadFile(path); err != nil || string(raw) != "precious" {
			t.Errorf("%s is now %q, %v", path, raw, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, opt)
}

func indexOf(list []string, what string) int {
	for i, s := range list {
		if s == what {
			return i
		}
	}
	panic("no step " + what)
}

// TestKilled kills a relay that writes, again and again. What it said was made is
// there; at most one change more is.
func TestKilled(t *testing.T) {
	t.Parallel()
	opt := options(t)
	mustInit(t, opt)
	made := 0
	for round := range 20 {
		c := childCommand(t, "write", opt)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var complaints strings.Builder
		c.Stderr = &complaints
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		stop := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
		killed := false
		for last := made + 1 + round%4; lines.Scan(); {
			if name := fmt.Sprintf("g-%06d", made); lines.Text() != name {
				t.Errorf("round %d: %q was made, want %s", round, lines.Text(), name)
			}
			if made++; made >= last && !killed {
				killed = true
				// Somewhere in a change: those take some hundred microseconds.
				time.AfterFunc(time.Duration(round%7)*150*time.Microsecond, func() { _ = c.Process.Kill() })
			}
		}
		stop.Stop()
		err = c.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || complaints.Len() > 0 {
			t.Fatalf("round %d: %v: %s", round, err, complaints.String())
		}
		s, err := Open(t.Context(), opt)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		got := len(s.Gateways(DefaultTenant))
		if got != made && got != made+1 {
			t.Errorf("round %d: %d gateways, %d were made", round, got, made)
		}
		made = got
		again := reopen(t, s)
		if d := cmp.Diff(content(s), content(again)); d != "" {
			t.Errorf("round %d: %s", round, d)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d gateways survived", made)
}
