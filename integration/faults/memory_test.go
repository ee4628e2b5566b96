//go:build linux

package faults

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// gated is a job's connection that reads nothing before the gate opens.
type gated struct {
	*net.TCPConn
	gate <-chan struct{}
}

func (g gated) Read(b []byte) (int, error) {
	<-g.gate
	return g.TCPConn.Read(b)
}

// TestMemory: jobs that read nothing, thousands at once, and processes that may take 256 MiB. They take no more, other
// streams go on, and when the jobs read again, every one of them gets every byte.
func TestMemory(t *testing.T) {
	t.Parallel()
	streams, limit, size := 500, 128<<20, int64(512<<10)
	if full {
		streams, limit, size = 2000, 256<<20, 1<<20
	}
	if os.Getenv(rig.RaceEnv) != "" {
		t.Skip("NOT RUN: the race detector takes several times the memory")
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	if affordable := int(files.Cur)/2 - 200; affordable < streams {
		t.Logf("************ ONLY %d STREAMS INSTEAD OF %d: the limit of descriptors is %d ************", affordable, streams, files.Cur)
		streams = affordable
	}
	ctx := deadline(t)
	p := newPath(ctx, t, options{carrier: "tls", env: []string{fmt.Sprintf("GOMEMLIMIT=%d", limit)}})
	processes := map[string]*proc.Process{"relay": p.relay.Process, "connector": p.connector.Process, "forward": p.forward.Process}
	gate := make(chan struct{})
	var begun, jobs errgroup.Group
	begun.SetLimit(32)
	for i := range streams {
		begun.Go(func() error {
			conn, err := p.dial(ctx, both[i%2])
			if err != nil {
				return err
			}
			_ = conn.SetReadBuffer(16 << 10)
			jobs.Go(func() error {
				script := oracle.Script{Seed: uint64(i), Send: size, End: oracle.EndFIN}
				outcome, err := oracle.Job{Script: script, End: oracle.EndFIN}.Run(gated{conn, gate})
				if bad := outcome.Honest(script.Seed, script.Send); bad != nil || !outcome.Complete() || err != nil {
					return fmt.Errorf("stream %d by %s: %v (%v, %v)", i, both[i%2], outcome, bad, err)
				}
				return nil
			})
			return nil
		})
	}
	if err := begun.Wait(); err != nil {
		t.Error(err)
	}
	for _, ingress := range both { // the others go on
		c, err := p.begin(ctx, ingress, 4<<20, 4<<20)
		if err == nil {
			err = p.complete(ctx, c)
		}
		if err != nil {
			t.Errorf("beside %d streams that stand still: %v", streams, err)
		}
	}
	check := func(when string) {
		for name, process := range processes {
			peak, err := peakOf(process)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, with %d streams: the %s took %.1f MiB at most", when, streams, name, float64(peak)/(1<<20))
			if peak > limit {
				t.Errorf("%s: the %s took %d bytes of %d", when, name, peak, limit)
			}
		}
	}
	check("while they stand still")
	close(gate)
	began := time.Now()
	if err := jobs.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("all read within %v", time.Since(began).Round(time.Millisecond))
	check("in the end")
}

// peakOf is the most memory that a process ever had, in bytes.
func peakOf(p *proc.Process) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("faults: no VmHWM of process %d", p.PID())
}
