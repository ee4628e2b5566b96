package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// JobOptions say where a command beside a job finds its relay, and who it is.
type JobOptions struct {
	Dir      string // for its token and its summary
	Relay    string // host:port
	Token    string
	Carriers []string // default: auto
	Env      []string
}

// spec is a command with these options; args stand before them and after after them.
func (o JobOptions) spec(p Program, args, after []string) (proc.Spec, error) {
	file := filepath.Join(o.Dir, "token")
	if err := writeFile(file, o.Token+"\n"); err != nil {
		return proc.Spec{}, err
	}
	for _, c := range o.Carriers {
		args = append(args, "--carriers", c)
	}
	s := p.spec(args)
	s.Args = slices.Concat(s.Args, after)
	s.Env = slices.Concat(s.Env, []string{"EBBGATE_RELAY=" + o.Relay, "EBBGATE_JOB_TOKEN_FILE=" + file}, o.Env)
	return s, nil
}

// Exec is the start of a command that reaches stores, each GATEWAY/STORE. It writes its summary for ReadSummary.
func (o JobOptions) Exec(p Program, stores []string, command ...string) (proc.Spec, error) {
	args := []string{"exec", "--summary", o.summary()}
	for _, s := range stores {
		args = append(args, "--store", s)
	}
	return o.spec(p, args, append([]string{"--"}, command...))
}

// Dial is the start of a dial.
func (o JobOptions) Dial(p Program, target string) (proc.Spec, error) {
	return o.spec(p, []string{"dial", target}, nil)
}

func (o JobOptions) summary() string { return filepath.Join(o.Dir, "summary.json") }

// StreamSummary is what a stream did, and RunSummary what an exec did.
type StreamSummary struct {
	Target       string `json:"target"`
	BytesRead    int64  `json:"bytes_read"`
	BytesWritten int64  `json:"bytes_written"`
	ReadCRC32C   string `json:"read_crc32c"`
	Reason       string `json:"reason"`
}

// RunSummary is what an exec did.
type RunSummary struct {
	Exit    int             `json:"exit"`
	Streams int             `json:"streams"`
	Failed  int             `json:"failed"`
	Last    []StreamSummary `json:"last"`
}

// ReadSummary reads what an exec wrote at its end.
func (o JobOptions) ReadSummary() (s RunSummary, err error) {
	body, err := os.ReadFile(o.summary())
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		err = fmt.Errorf("rig: summary: %w", err)
	}
	return s, err
}

// ExitCode is the exit code of a process whose Wait gave err; -1: it did not exit.
func ExitCode(err error) int {
	var status *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return status.ExitCode()
	}
	return -1
}
