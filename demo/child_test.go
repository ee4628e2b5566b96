//go:build unix

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const testPatience = 20 * time.Second

// fakeDemo prepares a demo with a fake program: the folder for temporary files,
// and the one where processes say that they run.
func fakeDemo(t *testing.T, behaviour string) (tmp, pids string) {
	t.Helper()
	tmp, pids = t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Setenv(fakeVariable, behaviour)
	t.Setenv(pidsVariable, pids)
	return tmp, pids
}

// until polls for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(testPatience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// processes gives the ids of all processes of a kind that ever ran.
func processes(t *testing.T, pids, kind string) (ids []int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(pids, kind+"-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		id, err := strconv.Atoi(f[strings.LastIndexByte(f, '-')+1:])
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// gone is true for a process that ended, even where nobody has asked how yet.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && strings.HasPrefix(state, "Z")
}

// checkNothingLeft fails if a demo left a process or a file.
func checkNothingLeft(t *testing.T, tmp, pids string) {
	t.Helper()
	ids := processes(t, pids, "*")
	if len(ids) == 0 {
		t.Error("no process ever ran")
	}
	for _, id := range ids {
		if !gone(id) {
			t.Errorf("process %d is still there", id)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDemoFailsCleanly(t *testing.T) {
	for _, tc := range []struct {
		behaviour string
		wants     []string // in the error
		code      string
	}{
		{"relay dies at once", []string{"relay", "the state is damaged"}, "demo-failed"},
		{"relay dies later", []string{"relay"}, "demo-failed"},
		{"gateway refused", []string{"gateway create", "there is one"}, "gateway-exists"},
		{"gateway babbles", []string{"gateway keys", "answer"}, "demo-failed"},
	} {
		t.Run(tc.behaviour, func(t *testing.T) {
			tmp, pids := fakeDemo(t, tc.behaviour)
			var out bytes.Buffer
			err := Run(t.Context(), Options{Program: os.Args[0], JSON: true, Stdout: &out, Size: 1})
			var failure *ProgramError
			if !errors.As(err, &failure) || failure.Code() != tc.code {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			var result Result
			if jerr := json.Unmarshal(out.Bytes(), &result); jerr != nil || result.OK || result.Error != err.Error() {
				t.Errorf("printed %s (%v)", out.Bytes(), jerr)
			}
			checkNothingLeft(t, tmp, pids)
		})
	}
}

func TestDemoInterrupted(t *testing.T) {
	tmp, pids := fakeDemo(t, "gateway hangs")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Options{Program: os.Args[0], Size: 1}) }()
	until(t, "the gateway command runs", func() bool { return len(processes(t, pids, "gateway")) == 1 })
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	case <-time.After(testPatience):
		t.Fatal("the demo does not end")
	}
	checkNothingLeft(t, tmp, pids)
}

func TestDemoKilled(t *testing.T) {
	_, pids := fakeDemo(t, "gateway hangs")
	demo := exec.Command(os.Args[0], "demo")
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { demo.Process.Kill() })
	until(t, "the gateway command runs", func() bool { return len(processes(t, pids, "gateway")) == 1 })
	demo.Process.Kill()
	demo.Wait()
	for _, id := range processes(t, pids, "*") {
		until(t, "process "+strconv.Itoa(id)+" ends with the demo", func() bool { return gone(id) })
	}
}

// Where the kernel does not do it, the end of standard input ends a child.
func TestEndWithParent(t *testing.T) {
	t.Setenv(childVariable, "1")
	cmd := exec.Command(os.Args[0], "connector")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	input.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(testPatience):
		cmd.Process.Kill()
		<-done
		t.Fatal("the child outlives its parent's pipe")
	}
}

func TestChildIgnoresOurEnvironment(t *testing.T) {
	t.Setenv("EBBGATE_RELAYD_HOSTNAME", "elsewhere.example")
	t.Setenv("EBBGATE_RELAY", "elsewhere.example")
	for _, v := range environment("EBBGATE_DEMO_CHILD=1") {
		if strings.HasPrefix(v, "EBBGATE_RELAY") {
			t.Errorf("a child is given %s", v)
		}
	}
}

func TestReadyLine(t *testing.T) {
	for _, tc := range []struct {
		name   string
		writes []string
		want   string
	}{
		{"whole", []string{"ready {\"a\":1}\n"}, `{"a":1}`},
		{"in pieces", []string{"re", "ady {\"a\"", ":1}", "\n"}, `{"a":1}`},
		{"after others", []string{"starting\nready {\"a\":1}\nready {\"b\":2}\n"}, `{"a":1}`},
		{"no end of line", []string{"ready {\"a\":1}"}, ""},
		{"not JSON", []string{"ready now\n", "ready {\"a\":1}\n"}, `{"a":1}`},
		{"endless line", []string{strings.Repeat("x", maxReadyLine+1), "\nready {\"a\":1}\n"}, ""},
	} {
		found := make(chan json.RawMessage, 1)
		r := &readyLine{found: found}
		for _, w := range tc.writes {
			if n, err := r.Write([]byte(w)); n != len(w) || err != nil {
				t.Errorf("%s: Write = %d, %v", tc.name, n, err)
			}
		}
		got := ""
		select {
		case body := <-found:
			got = string(body)
		default:
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	tl := &tail{limit: 8}
	for range 100 {
		tl.Write([]byte("0123456789"))
	}
	if got := tl.String(); got != "23456789" {
		t.Errorf("kept %q", got)
	}
}
