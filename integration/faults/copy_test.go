//go:build unix

package faults

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// transfer is a copy in both directions at once, slow enough to be disturbed.
type transfer struct {
	ingress string
	script  oracle.Script
	upload  int64
	under   chan struct{} // closed once bytes arrive
	done    chan struct{} // closed once outcome and err are set
	outcome oracle.Outcome
	err     error

	mu   sync.Mutex
	seen int64         // bytes read so far; guarded by mu
	more chan struct{} // closed and replaced when seen grows; guarded by mu
}

// begin starts a copy and returns once its first bytes are there.
func (p *path) begin(ctx context.Context, ingress string, send, upload int64) (*transfer, error) {
	conn, err := p.dial(ctx, ingress)
	if err != nil {
		return nil, err
	}
	c := &transfer{
		ingress: ingress, upload: upload, under: make(chan struct{}), done: make(chan struct{}), more: make(chan struct{}),
		script: oracle.Script{
			ID: rand.Text(), Seed: mathrand.Uint64(), Send: send, End: oracle.EndFIN, UploadSeed: mathrand.Uint64(),
			Chunk: 64 << 10, Pause: 10 * time.Millisecond,
		},
	}
	go func() {
		defer close(c.done)
		c.outcome, c.err = oracle.Job{Script: c.script, Upload: upload, End: oracle.EndFIN, Observe: c.observe}.Run(conn)
	}()
	select {
	case <-c.under:
		return c, nil
	case <-c.done:
		return nil, fmt.Errorf("the copy by %s ended before it began: %v", ingress, c.outcome)
	case <-ctx.Done():
		_ = conn.Close()
		<-c.done
		return nil, fmt.Errorf("the copy by %s does not begin: %w", ingress, ctx.Err())
	}
}

func (c *transfer) observe(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == 0 && n > 0 {
		close(c.under)
	}
	c.seen = n
	close(c.more)
	c.more = make(chan struct{})
}

// goesOn waits until the copy has n bytes more than now, or is over.
func (c *transfer) goesOn(ctx context.Context, n int64) error {
	c.mu.Lock()
	from := c.seen
	c.mu.Unlock()
	for {
		c.mu.Lock()
		seen, more := c.seen, c.more
		c.mu.Unlock()
		if seen >= from+n {
			return nil
		}
		select {
		case <-more:
		case <-c.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the copy by %s stands still at %d bytes: %w", c.ingress, seen, ctx.Err())
		}
	}
}

// complete waits for the end, which must be a good one on both sides, with every byte.
func (p *path) complete(ctx context.Context, c *transfer) error {
	select {
	case <-c.done:
	case <-ctx.Done():
		return fmt.Errorf("the copy by %s does not end: %w", c.ingress, ctx.Err())
	}
	if err := c.outcome.Honest(c.script.Seed, c.script.Send); err != nil || !c.outcome.Complete() || c.err != nil {
		return fmt.Errorf("by %s the job saw: %v (%v, %v)", c.ingress, c.outcome, err, c.err)
	}
	report, err := p.store.Report(ctx, c.script.ID)
	if err != nil {
		return err
	}
	if err := report.Upload.Honest(c.script.UploadSeed, c.upload); err != nil || !report.Upload.Complete() {
		return fmt.Errorf("by %s the store saw: %v (%v)", c.ingress, report.Upload, err)
	}
	return nil
}

// broken waits for the end, which must be an error on both sides.
func (p *path) broken(ctx context.Context, c *transfer) error {
	select {
	case <-c.done:
	case <-ctx.Done():
		return fmt.Errorf("the copy by %s does not end: %w", c.ingress, ctx.Err())
	}
	if c.outcome.Complete() || c.outcome.Kind == oracle.KindCorrupt {
		return fmt.Errorf("by %s the job saw: %v", c.ingress, c.outcome)
	}
	report, err := p.store.Report(ctx, c.script.ID)
	if err != nil {
		return err
	}
	if report.Upload.Complete() || report.Upload.Kind == oracle.KindCorrupt {
		return fmt.Errorf("by %s the store saw: %v", c.ingress, report.Upload)
	}
	return nil
}
