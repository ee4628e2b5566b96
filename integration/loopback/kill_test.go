package loopback

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

const (
	kills = 50 // of each kind on each carrier
	// endless is longer than any copy of these tests gets.
	endless = 1 << 40
	// noticed bounds the time from a kill to the end of its streams.
	noticed = 20 * time.Second
)

// transfer is a copy in progress that is going to be interrupted.
type transfer struct {
	ingress string
	id      string
	under   chan struct{} // closed once enough bytes have arrived
	done    chan struct{} // closed after outcome was set
	outcome oracle.Outcome
}

// begin starts an endless download, or upload, and returns once it is under way: after a random number of bytes.
func (c *company) begin(ctx context.Context, ingress string, upload bool) (*transfer, error) {
	conn, err := c.dial(ctx, ingress)
	if err != nil {
		return nil, err
	}
	d := &transfer{ingress: ingress, id: rand.Text(), under: make(chan struct{}), done: make(chan struct{})}
	enough := mathrand.Int64N(2 << 20)
	var once sync.Once
	var answered atomic.Bool // the store has the script: only then does it report
	observe := func(n int64) {
		if n > enough && answered.Load() {
			once.Do(func() { close(d.under) })
		}
	}
	seed := mathrand.Uint64()
	j := oracle.Job{
		Script:  oracle.Script{ID: d.id, Seed: seed, Send: endless, Pause: 2 * time.Millisecond, End: oracle.EndFIN},
		Observe: observe,
	}
	if upload {
		j = oracle.Job{
			Script:  oracle.Script{ID: d.id, Send: 1, End: oracle.EndSilent, UploadSeed: seed},
			Observe: func(int64) { answered.Store(true) },
			Upload:  endless, ObserveUpload: observe,
		}
	} else {
		answered.Store(true)
	}
	go d.run(j, conn)
	select {
	case <-d.under:
		return d, nil
	case <-d.done:
		return nil, fmt.Errorf("the copy by %s ended by itself: %v", ingress, d.outcome)
	case <-ctx.Done():
		_ = conn.Close()
		<-d.done
		return nil, fmt.Errorf("the copy by %s makes no progress: %v", ingress, d.outcome)
	}
}

func (d *transfer) run(j oracle.Job, conn *net.TCPConn) {
	defer close(d.done)
	d.outcome, _ = j.Run(conn)
}

// interrupted waits for the copy's end, which must not look like a good one.
func (d *transfer) interrupted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, noticed)
	defer cancel()
	select {
	case <-d.done:
	case <-ctx.Done():
		return fmt.Errorf("by %s: the job has not noticed after %v", d.ingress, noticed)
	}
	if d.outcome.Complete() || d.outcome.Kind == oracle.KindCorrupt {
		return fmt.Errorf("by %s: the job saw: %v", d.ingress, d.outcome)
	}
	return nil
}

// beginAll starts a download and an upload by each ingress.
func (c *company) beginAll(ctx context.Context) (copies []*transfer, err error) {
	for _, ingress := range ingresses {
		for _, upload := range []bool{false, true} {
			d, err := c.begin(ctx, ingress, upload)
			if err != nil {
				return copies, err
			}
			copies = append(copies, d)
		}
	}
	return copies, nil
}

// interruptedAll waits until the jobs have noticed, and the store too where it lives. What the store reads of an
// interrupted copy must not come to a clean end either: a connection that nobody reads may hide that, because the
// kernel resets what has unread bytes, so there are uploads among them.
func (c *company) interruptedAll(ctx context.Context, copies []*transfer, storeLives bool) error {
	for _, d := range copies {
		if err := d.interrupted(ctx); err != nil {
			return err
		}
		if !storeLives {
			continue
		}
		report, err := c.store.Report(ctx, d.id)
		if err != nil {
			return err
		}
		if report.Upload.Complete() {
			return fmt.Errorf("by %s: the store saw: %v", d.ingress, report.Upload)
		}
	}
	return nil
}

// killAll has so many companies at one relay, on each carrier, that are each interrupted until all kills are done.
func killAll(t *testing.T, companies, kills int, interrupt func(context.Context, *company) error) {
	for _, carrier := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 4*time.Minute)
			relay := startRelay(ctx, t)
			var workers sync.WaitGroup
			for i := range companies {
				c := joinRelay(ctx, t, relay, carrier, fmt.Sprintf("plant%d", i))
				c.startForward(ctx, t)
				workers.Go(func() {
					for n := range kills / companies {
						if err := interrupt(ctx, c); err != nil {
							t.Errorf("%s, kill %d: %v", c.gateway, n, err)
							return
						}
					}
				})
			}
			workers.Wait()
		})
	}
}

// TestKilledConnector kills connectors in mid-copy: neither the jobs nor the store may take that for an end. Many
// at a time, because over QUIC nobody says that a process is gone.
func TestKilledConnector(t *testing.T) {
	killAll(t, 10, kills, func(ctx context.Context, c *company) error {
		copies, err := c.beginAll(ctx)
		if err != nil {
			return err
		}
		c.connector.Kill()
		if err := c.interruptedAll(ctx, copies, true); err != nil {
			return err
		}
		if err := c.connector.Start(ctx); err != nil {
			return err
		}
		_, err = c.relay.Await(ctx, c.gateway, node, rig.Online)
		return err
	})
}

// TestKilledStore kills stores in mid-copy. Their sockets have linger 0, so the kernel resets them.
func TestKilledStore(t *testing.T) {
	killAll(t, 5, kills, func(ctx context.Context, c *company) error {
		copies, err := c.beginAll(ctx)
		if err != nil {
			return err
		}
		addr := c.store.Addr()
		c.store.Kill()
		if err := c.interruptedAll(ctx, copies, false); err != nil {
			return err
		}
		c.store, err = oracle.StartStore(ctx, nil, addr) // ends with the test's process at the latest
		return err
	})
}

// TestKilledForward kills the job's side in mid-copy.
func TestKilledForward(t *testing.T) {
	killAll(t, 5, 10, func(ctx context.Context, c *company) error {
		var copies []*transfer
		for _, upload := range []bool{false, true} {
			d, err := c.begin(ctx, "forward", upload)
			if err != nil {
				return err
			}
			copies = append(copies, d)
		}
		c.forward.Kill()
		if err := c.interruptedAll(ctx, copies, true); err != nil {
			return err
		}
		var err error
		c.forward, err = c.forward.Again(ctx)
		return err
	})
}
