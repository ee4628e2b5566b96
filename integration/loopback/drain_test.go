package loopback

import (
	"context"
	"errors"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// slowObject is an object that takes a second or two.
var slowObject = oracle.Script{Seed: 77, Send: 300_000, Chunk: 10_000, Pause: 50 * time.Millisecond, End: oracle.EndFIN}

// read starts reading an object and returns once its first bytes are there.
func (c *company) read(t *testing.T, ingress string, script oracle.Script) <-chan oracle.Outcome {
	t.Helper()
	conn, err := c.dial(t.Context(), ingress)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	begun, done := make(chan struct{}), make(chan oracle.Outcome, 1)
	first := true
	j := oracle.Job{Script: script, End: oracle.EndFIN, Observe: func(int64) {
		if first {
			first = false
			close(begun)
		}
	}}
	go func() {
		outcome, _ := j.Run(conn)
		done <- outcome
	}()
	select {
	case <-begun:
	case o := <-done:
		t.Fatalf("ended before it began: %v", o)
	}
	return done
}

// TestRelayDrains ends a relay while an object is on its way: the object arrives, new dials are refused, and the relay
// ends well.
func TestRelayDrains(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	object := c.read(t, "connect", slowObject)
	if err := c.relay.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.awaitDraining(ctx, t)
	if o := <-object; !o.Complete() || o.Honest(slowObject.Seed, slowObject.Send) != nil {
		t.Errorf("the object that was on its way: %v", o)
	}
	if err := c.relay.Wait(ctx); err != nil {
		t.Error(err)
	}
	if err := c.relay.Restart(ctx); err != nil {
		t.Fatal(err)
	}
}

// awaitDraining dials until the relay refuses it.
func (c *company) awaitDraining(ctx context.Context, t *testing.T) {
	t.Helper()
	for {
		conn, err := c.dial(ctx, "connect")
		if err != nil {
			var answer *rig.ConnectError
			if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) &&
				(!errors.As(err, &answer) || answer.Status != http.StatusServiceUnavailable || answer.Code != "relay-draining") {
				t.Errorf("a dial while the relay drains: %v", err)
			}
			return
		}
		_ = conn.Close()
	}
}

// TestRelayDrainsClients ends a relay while an object is on its way to a client, by lanes that the relay only moves: the
// object arrives, and clients that have nothing open do not keep the relay waiting.
func TestRelayDrainsClients(t *testing.T) {
	for _, carrier := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 4*time.Minute)
			relay, err := rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{
				Dir: t.TempDir(), Flags: []string{"--drain-timeout", "1h"},
			})
			if err != nil {
				t.Fatal(err)
			}
			watch(t, relay.Process, false)
			c := joinRelay(ctx, t, relay, carrier, corp)
			idle, err := c.newForward(ctx, t, c.ingress.Token, store)
			if err != nil {
				t.Fatal(err)
			}
			c.startForward(ctx, t)
			short := slowObject
			short.Send = 10_000
			used := c.forward
			c.forward = idle
			if o := <-c.read(t, "forward", short); !o.Complete() {
				t.Fatalf("the first object: %v", o)
			}
			c.forward = used
			object := c.read(t, "forward", slowObject)
			if err := relay.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if o := <-object; !o.Complete() || o.Honest(slowObject.Seed, slowObject.Send) != nil {
				t.Errorf("the object that was on its way: %v", o)
			}
			if err := relay.Wait(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRelayDrainsInTime has an object that takes too long: it is reset, not cut, when the time is over or at a second
// signal.
func TestRelayDrainsInTime(t *testing.T) {
	long := slowObject
	long.Send = 1 << 30
	for name, test := range map[string]struct {
		timeout string
		signals int
	}{"timeout": {"500ms", 1}, "second signal": {"1m", 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 4*time.Minute)
			relay, err := rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{
				Dir: t.TempDir(), Flags: []string{"--drain-timeout", test.timeout},
			})
			if err != nil {
				t.Fatal(err)
			}
			watch(t, relay.Process, false)
			c := joinRelay(ctx, t, relay, "tls", corp)
			object := c.read(t, "connect", long)
			began := time.Now()
			for range test.signals {
				if err := relay.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				c.awaitDraining(ctx, t) // two signals that are both under way would be one
			}
			if o := <-object; o.Complete() || o.Kind == oracle.KindCorrupt {
				t.Errorf("the object that was cut off: %v", o)
			}
			<-relay.Done()
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestConnectorStops ends a connector while an object is on its way: the object is reset within a second or so.
func TestConnectorStops(t *testing.T) {
	for _, carrier := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 4*time.Minute)
			c := newCompany(ctx, t, carrier)
			long := slowObject
			long.Send = 1 << 30
			object := c.read(t, "connect", long)
			began := time.Now()
			if err := c.connector.Stop(10 * time.Second); err != nil {
				t.Error(err)
			}
			if o := <-object; o.Complete() || o.Kind == oracle.KindCorrupt {
				t.Errorf("the object that was cut off: %v", o)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
