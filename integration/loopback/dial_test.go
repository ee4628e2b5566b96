package loopback

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// startDial starts a dial between a reader and a writer.
func startDial(t *testing.T, o rig.JobOptions, target string, in io.Reader, out io.Writer) *proc.Process {
	t.Helper()
	spec, err := o.Dial(rig.Program{Path: binary}, target)
	if err != nil {
		t.Fatal(err)
	}
	spec.Stdin, spec.Stdout = in, out
	p, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	watch(t, p, false)
	return p
}

// output is a writer that says when it was given so many bytes.
type output struct {
	n, enough int
	reached   chan struct{}
	once      sync.Once
}

func newOutput(enough int) *output { return &output{enough: enough, reached: make(chan struct{})} }

func (w *output) Write(p []byte) (int, error) {
	if w.n += len(p); w.n >= w.enough {
		w.once.Do(func() { close(w.reached) })
	}
	return len(p), nil
}

// TestDial copies 100 MB each way between standard input and output and a store, and then looks at ends that are not
// good ones.
func TestDial(t *testing.T) {
	t.Parallel()
	const size = 100_000_000
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	t.Run("both ways", func(t *testing.T) {
		script := oracle.Script{ID: rand.Text(), Seed: 3, Send: size, End: oracle.EndFIN, UploadSeed: 4}
		out := oracle.NewVerifier(script.Seed)
		p := startDial(t, c.job(t), c.target(store), io.MultiReader(bytes.NewReader(script.Encode()), oracle.NewReader(script.UploadSeed, size)), out)
		if err := p.Wait(ctx); err != nil {
			t.Error(err)
		}
		if out.Len() != size {
			t.Errorf("%d bytes came out", out.Len())
		}
		report, err := c.store.Report(ctx, script.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !report.Upload.Complete() || report.Upload.Bytes != size {
			t.Errorf("the store read: %v", report.Upload)
		}
	})
	t.Run("store resets", func(t *testing.T) {
		script := oracle.Script{Seed: 3, Send: 1 << 20, End: oracle.EndReset}
		p := startDial(t, c.job(t), c.target(store), bytes.NewReader(script.Encode()), io.Discard)
		var e *rig.CommandError
		if err := rig.Failure(ctx, p); !errors.As(err, &e) || e.Exit != 1 || e.Code != "store-reset" || e.Hop != "store" || e.Advice == "" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("store not allowed", func(t *testing.T) {
		p := startDial(t, c.job(t), c.target("other"), bytes.NewReader(nil), io.Discard)
		var e *rig.CommandError
		if err := rig.Failure(ctx, p); !errors.As(err, &e) || e.Exit != 1 || e.Code != "job-not-allowed" || e.Hop != "relay" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("killed in mid-copy", func(t *testing.T) {
		script := oracle.Script{ID: rand.Text(), Send: 1, End: oracle.EndSilent, UploadSeed: 4}
		out := newOutput(1)
		p := startDial(t, c.job(t), c.target(store), io.MultiReader(bytes.NewReader(script.Encode()), oracle.NewReader(script.UploadSeed, endless)), out)
		select {
		case <-out.reached:
		case <-ctx.Done():
			t.Fatal("the copy makes no progress")
		}
		p.Kill()
		report, err := c.store.Report(ctx, script.ID)
		if err != nil {
			t.Fatal(err)
		}
		if report.Upload.Complete() {
			t.Errorf("the store read: %v", report.Upload)
		}
	})
}
