//go:build linux

package relays

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// line is two relays, a connector and a forward that both know the first one and
// learn of the other, and a store.
type line struct {
	*pair
	connector *rig.Connector
	forward   *rig.Forward
	store     *oracle.StoreProcess
}

func startLine(ctx context.Context, t *testing.T, carrier string) *line {
	t.Helper()
	l := &line{pair: startPair(ctx, t)}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := l.a.CreateGateway(ctx, "corp")
	check(err)
	token, err := l.a.CreateJob(ctx, "copy", "corp/objects")
	check(err)
	l.store, err = oracle.StartStore(ctx, nil, "127.0.0.1:0")
	check(err)
	t.Cleanup(l.store.Kill)
	l.connector, err = rig.StartConnector(ctx, rig.Program{Path: binary}, rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: l.a.Address, Key: keys.Key1, Name: "node1", Carriers: []string{carrier},
		Stores: []rig.Store{rig.Loopback("objects", l.store.Addr())},
	})
	check(err)
	t.Cleanup(func() {
		l.connector.Kill()
		if t.Failed() {
			t.Logf("connector:\n%s", l.connector.Tail())
		}
	})
	l.forward, err = rig.StartForward(ctx, rig.Program{Path: binary}, rig.ForwardOptions{
		Dir: t.TempDir(), Relay: l.a.Address, Token: token, Target: "corp/objects", Carriers: []string{carrier},
	})
	check(err)
	t.Cleanup(func() {
		l.forward.Kill()
		if t.Failed() {
			t.Logf("forward:\n%s", l.forward.Tail())
		}
	})
	l.awaitBoth(ctx, t)
	return l
}

// awaitBoth waits until the node is at both relays.
func (l *line) awaitBoth(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, r := range []*rig.Relay{l.a, l.b} {
		if _, err := r.Await(ctx, "corp", "node1", func(n rig.Node) bool {
			return n.Status == "Online" && slices.Contains(n.Relays, "127.0.0.1") && slices.Contains(n.Relays, "127.0.0.2")
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// copying is a copy in both directions at once.
type copying struct {
	script  oracle.Script
	size    int64
	done    chan struct{} // closed once outcome and err are set
	outcome oracle.Outcome
	err     error

	mu sync.Mutex
	// guarded by mu
	read, written int64
	at            [2]time.Time     // of the last byte, by direction
	gap           [2]time.Duration // the longest time without one
}

func (l *line) copy(t *testing.T, size int64) *copying {
	t.Helper()
	conn, err := net.Dial("tcp", l.forward.Addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &copying{
		size: size, done: make(chan struct{}),
		script: oracle.Script{
			ID: rand.Text(), Seed: mathrand.Uint64(), Send: size, End: oracle.EndFIN, UploadSeed: mathrand.Uint64(),
			Chunk: chunk, Pause: beat,
		},
	}
	begun := time.Now()
	go func() {
		defer close(c.done)
		c.outcome, c.err = oracle.Job{
			Script: c.script, Upload: size, End: oracle.EndFIN,
			Observe: func(n int64) { c.observe(0, &c.read, n) }, ObserveUpload: func(n int64) {
				c.observe(1, &c.written, n)
				<-time.After(time.Until(begun.Add(time.Duration(n/chunk) * beat))) // as slow as the store
			},
		}.Run(conn.(*net.TCPConn))
	}()
	return c
}

func (c *copying) observe(way int, moved *int64, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if *moved = n; !c.at[way].IsZero() {
		c.gap[way] = max(c.gap[way], now.Sub(c.at[way]))
	}
	c.at[way] = now
}

// gaps are the longest times without a byte since the last question, down and up.
func (c *copying) gaps() (down, up time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	down, up = c.gap[0], c.gap[1]
	c.gap = [2]time.Duration{}
	return down, up
}

func (c *copying) moved() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.read
}

// complete wants every byte at both ends.
func (l *line) complete(ctx context.Context, c *copying) error {
	select {
	case <-c.done:
	case <-ctx.Done():
		return fmt.Errorf("the copy does not end, at %d of %d bytes: %w", c.moved(), c.size, ctx.Err())
	}
	if err := c.outcome.Honest(c.script.Seed, c.size); err != nil || !c.outcome.Complete() || c.err != nil {
		return fmt.Errorf("the job saw: %v (%v, %v)", c.outcome, err, c.err)
	}
	report, err := l.store.Report(ctx, c.script.ID)
	if err != nil {
		return err
	}
	if err := report.Upload.Honest(c.script.UploadSeed, c.size); err != nil || !report.Upload.Complete() {
		return fmt.Errorf("the store saw: %v (%v)", report.Upload, err)
	}
	return nil
}

// Copies of this size take some seconds: both ends pause.
const (
	chunk    = 128 << 10
	beat     = 20 * time.Millisecond
	copySize = 64 << 20
	copyStep = 2 << 20 // between two faults
)

// disturb makes copies, does one fault after the other in their middle, and wants
// them complete.
func (l *line) disturb(ctx context.Context, t *testing.T, faults ...func() error) {
	t.Helper()
	var copies []*copying
	for range 2 {
		copies = append(copies, l.copy(t, copySize))
	}
	goOn := func(n int64) {
		t.Helper()
		for _, c := range copies {
			from := c.moved()
			await(ctx, t, "the copies go on", func() bool {
				select {
				case <-c.done:
					return true
				default:
					return c.moved() >= from+n
				}
			})
		}
	}
	goOn(copyStep)
	for i, fault := range faults {
		for _, c := range copies {
			c.gaps()
		}
		if err := fault(); err != nil {
			t.Fatal(err)
		}
		goOn(copyStep)
		for _, c := range copies {
			down, up := c.gaps()
			t.Logf("fault %d: longest gap %v down, %v up", i, down.Round(time.Millisecond), up.Round(time.Millisecond))
		}
	}
	for _, c := range copies {
		if err := l.complete(ctx, c); err != nil {
			t.Error(err)
		}
	}
}

func onCarriers(t *testing.T, carriers []string, test func(ctx context.Context, t *testing.T, carrier string)) {
	for _, carrier := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			test(deadline(t), t, carrier)
		})
	}
}

// TestOneStays: one relay is killed and does not come back; the copies go on over
// the other one.
func TestOneStays(t *testing.T) {
	t.Parallel()
	onCarriers(t, []string{"wss", "tls"}, func(ctx context.Context, t *testing.T, carrier string) {
		l := startLine(ctx, t, carrier)
		l.disturb(ctx, t, func() error { l.a.Kill(); return nil })
		if err := l.complete(ctx, l.copy(t, copyStep)); err != nil { // so does a new one
			t.Error(err)
		}
	})
}

// TestInTurn: relays are killed and started again, or stand still, one after the
// other.
func TestInTurn(t *testing.T) {
	t.Parallel()
	onCarriers(t, []string{"tls", "quic"}, func(ctx context.Context, t *testing.T, carrier string) {
		l := startLine(ctx, t, carrier)
		restarted := func(r *rig.Relay) func() error {
			return func() error {
				r.Kill()
				err := r.Restart(ctx)
				l.awaitBoth(ctx, t)
				return err
			}
		}
		frozen := func(r *rig.Relay) func() error {
			return func() error {
				if err := r.Signal(syscall.SIGSTOP); err != nil {
					return err
				}
				timer := time.NewTimer(3 * time.Second)
				defer timer.Stop()
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
				return r.Signal(os.Signal(syscall.SIGCONT))
			}
		}
		l.disturb(ctx, t, restarted(l.a), frozen(l.b), restarted(l.b), frozen(l.a))
	})
}
