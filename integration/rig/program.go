package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// BinaryEnv names a ready binary, RaceEnv (not empty) has it built with the race detector.
const (
	BinaryEnv = "EBBGATE_BINARY"
	RaceEnv   = "EBBGATE_RACE"
)

// Build builds the binary and returns its path. Remove removes it again, unless it was ready.
func Build(ctx context.Context) (path string, remove func(), err error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		path, err := filepath.Abs(path)
		return path, func() {}, err
	}
	if err := touchSources(); err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "ebbgate-binary-")
	if err != nil {
		return "", nil, fmt.Errorf("rig: %w", err)
	}
	remove = func() { _ = os.RemoveAll(dir) }
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("rig: %w", err)
	}
	path = filepath.Join(dir, "ebbgate")
	build := exec.CommandContext(ctx, or(os.Getenv("GO"), "go"), "build", "-buildvcs=false", "-o", path, "github.com/ebbgate/ebbgate/cmd/ebbgate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv(RaceEnv) != "" {
		build.Args = append(build.Args[:2], append([]string{"-race"}, build.Args[2:]...)...)
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if out, err := build.CombinedOutput(); err != nil {
		remove()
		return "", nil, fmt.Errorf("rig: go build: %w\n%s", err, out)
	}
	return path, remove, nil
}

// touchSources looks at every source file of the module. go test remembers what a test looked at: so it does not
// answer from its cache after a change to the binary, which the tests do not import.
func touchSources() error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return nil // not inside the module: go build will say what it thinks of that
		}
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		return err
	})
}

// Program is the binary, and where it runs.
type Program struct {
	Path  string
	Where proc.Starter // nil: on this machine
	Env   []string     // added to this process's
	Flags []string     // added to each command's
}

// briefGrace keeps tests of what ends a stream short: streams wait a second for their lanes instead of two minutes.
// Tests of what streams outlive say otherwise in Program.Env.
var briefGrace = []string{"EBBGATE_RELAYD_RESUME_GRACE=1s", "EBBGATE_CONNECTOR_RESUME_GRACE=1s", "EBBGATE_RESUME_GRACE=1s"}

// CommandError is what a command that failed says of itself with --json.
type CommandError struct {
	Command string `json:"-"`
	Exit    int    `json:"-"` // -1: there is none, as Err says
	Code    string `json:"code"`
	Hop     string `json:"hop"`
	Message string `json:"message"`
	Advice  string `json:"advice"`
	Output  string `json:"-"` // the end of what it wrote
	Err     error  `json:"-"` // of the process
}

func (e *CommandError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("rig: ebbgate %s: %v, without an error object:\n%s", e.Command, e.Err, e.Output)
	}
	return fmt.Sprintf("rig: ebbgate %s: exit %d: %s at hop %q: %s (%s)", e.Command, e.Exit, e.Code, e.Hop, e.Message, e.Advice)
}

// Run runs a command with --json to its end and decodes what it prints into v, unless v is nil. A command that
// fails is a *CommandError.
func (p Program) Run(ctx context.Context, v any, args ...string) error {
	out, err := proc.Run(ctx, p.spec(args))
	if err != nil {
		return commandError(args, err)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("rig: ebbgate %s: %w in %q", strings.Join(args, " "), err, out)
	}
	return nil
}

// Start starts a command that keeps running.
func (p Program) Start(args ...string) (*proc.Process, error) { return proc.Start(p.spec(args)) }

func (p Program) spec(args []string) proc.Spec {
	return proc.Spec{
		Name:  "ebbgate " + strings.Join(args[:min(2, len(args))], " "),
		Path:  p.Path,
		Args:  slices.Concat(args, []string{"--json"}, p.Flags),
		Env:   slices.Concat(briefGrace, p.Env),
		Where: p.Where,
	}
}

// Failure waits for a command that keeps running to end, and returns the *CommandError that it ended with.
func Failure(ctx context.Context, p *proc.Process) error {
	return commandError([]string{p.Name()}, p.Wait(ctx))
}

func commandError(args []string, err error) error {
	var exit *proc.ExitError
	if !errors.As(err, &exit) || exit.Err == nil {
		return err
	}
	e := &CommandError{Exit: -1, Output: exit.Output, Err: exit.Err}
	var status *exec.ExitError
	if errors.As(exit.Err, &status) {
		e.Exit = status.ExitCode()
	}
	for line := range bytes.Lines([]byte(exit.Output)) {
		var printed struct{ Error *CommandError }
		if bytes.HasPrefix(line, []byte(`{"error"`)) && json.Unmarshal(line, &printed) == nil && printed.Error != nil {
			printed.Error.Exit, printed.Error.Output, printed.Error.Err = e.Exit, e.Output, e.Err
			e = printed.Error
		}
	}
	e.Command = strings.Join(args, " ")
	return e
}

// writeYAML writes a configuration; JSON is YAML.
func writeYAML(path string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	return writeFile(path, string(body))
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("rig: %w", err)
	}
	return nil
}
