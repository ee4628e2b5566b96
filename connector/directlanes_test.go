package connector

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestRoomForDirectLanes: the last eighth is for small frames, and a network that
// refuses leaves half for a while.
func TestRoomForDirectLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(directLanes)
		d.begin(context.Background())
		defer d.end()
		fill := func(express bool) (n int) {
			for d.enter(express) != nil {
				n++
			}
			return n
		}
		empty := func() {
			for d.count > 0 {
				d.leave()
			}
		}
		want := func(bulk, small int) {
			t.Helper()
			if b, s := fill(false), fill(true); b != bulk || s != small {
				t.Errorf("room for %d lanes of bulk and %d more, want %d and %d", b, s, bulk, small)
			}
			empty()
		}
		d.limit(lanesDirectly)
		want(56, 8)
		d.limit(lanesProxied)
		want(7, 1)
		d.limit(1)
		want(1, 0)
		d.limit(16)
		for range 8 { // of lanes that were made together
			d.refuse()
		}
		want(7, 1)
		time.Sleep(lanesRefusedOnce)
		if !d.refuse() {
			t.Error("another refusal is no news")
		}
		want(4, 0)
		time.Sleep(lanesRefusedFor + time.Second)
		want(14, 2)
	})
}
