package loopback

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// TestTheKernelMovesLanes counts the system calls of a relay while a job beside it copies: the bytes go through
// splice(2) from socket to socket, and the relay reads and writes none of them.
func TestTheKernelMovesLanes(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("NOT RUN: strace is not installed (package strace)")
	}
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	c.startForward(ctx, t)
	const size = 64 << 20
	for attempt := 1; ; attempt++ { // until direct lanes are there, session lanes carry
		trace := filepath.Join(t.TempDir(), "trace")
		stop := attach(t, strace, c.relay.PID(), trace)
		c.copyWhole(ctx, t, size)
		stop()
		moved := traffic(t, trace)
		copied := moved["read"] + moved["write"]
		if moved["splice"] >= 2*size && copied < size/16 { // into a pipe and out of it
			return
		}
		if attempt == 10 {
			t.Fatalf("of a copy of %d bytes the relay spliced %d, and read and wrote %d itself", size, moved["splice"]/2, copied)
		}
	}
}

// copyWhole has a job read so many bytes of the store through the forward.
func (c *company) copyWhole(ctx context.Context, t *testing.T, size int64) {
	t.Helper()
	conn, err := dial(ctx, c.forward.Addr)
	if err != nil {
		t.Fatal(err)
	}
	outcome, err := oracle.Job{Script: oracle.Script{Seed: 7, Send: size, End: oracle.EndFIN}, End: oracle.EndFIN}.Run(conn)
	if err != nil || !outcome.Complete() || outcome.Bytes != size {
		t.Fatalf("the copy ended with %v, %v", outcome, err)
	}
}

// attach traces a process until the function that it returns is called.
func attach(t *testing.T, strace string, pid int, out string) (stop func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-e", "trace=splice,read,write", "-e", "signal=none", "-o", out, "-p", strconv.Itoa(pid))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for ; tracer(t, pid) != cmd.Process.Pid; <-poll.C { // all threads of the process have a tracer once it is attached
		if t.Context().Err() != nil || cmd.ProcessState != nil {
			t.Fatal("strace does not attach")
		}
	}
	return func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
	}
}

// tracer is the process that traces all threads of another one; 0: none traces all.
func tracer(t *testing.T, pid int) (by int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("%v, %v", tasks, err)
	}
	for _, path := range tasks {
		status, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that ended
		}
		_, rest, _ := strings.Cut(string(status), "TracerPid:")
		fields := strings.Fields(rest)
		if len(fields) == 0 || fields[0] == "0" {
			return 0
		}
		by, _ = strconv.Atoi(fields[0])
	}
	return by
}

var (
	called  = regexp.MustCompile(`^\d+ +(\w+)\(.*\) += (\d+)$`)
	resumed = regexp.MustCompile(`^\d+ +<\.\.\. (\w+) resumed>.*\) += (\d+)$`)
)

// traffic sums up what each system call of a trace moved, in bytes.
func traffic(t *testing.T, trace string) map[string]int64 {
	t.Helper()
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	moved := make(map[string]int64)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m := called.FindStringSubmatch(lines.Text())
		if m == nil {
			m = resumed.FindStringSubmatch(lines.Text())
		}
		if m != nil {
			n, _ := strconv.ParseInt(m[2], 10, 64)
			moved[m[1]] += n
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return moved
}
