package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// checked looks for goroutines that stayed after all tests.
type checked struct{ m *testing.M }

func (c checked) Run() int {
	code := c.m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestMain(m *testing.M) {
	// Times are printed in the local zone. Set before anything runs beside it:
	// whoever asks for the time reads this variable.
	time.Local = time.UTC
	testscript.Main(checked{m}, map[string]func(){"ebbgate": main})
}

// TestScripts runs the command lines of testdata, each in a process.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir)
			return nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// execute runs a command line in this process.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = newApp(strings.NewReader(""), &out, &errs).run(t.Context(), args)
	return code, out.String(), errs.String()
}

// TestInterrupted: a command whose context has ended fails, and says so.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	code := newApp(strings.NewReader(""), &out, &errs).run(ctx, []string{
		"gateway", "list", "--api", "unix://" + t.TempDir() + "/admin.sock",
	})
	if code != 1 || errs.Len() == 0 {
		t.Errorf("exit %d, %s", code, errs.String())
	}
}
