package bundle

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestLevelKeepsTheQueueShort fills a long path that loses nothing: the path stays full, and the round trip of small
// frames near its least.
func TestLevelKeepsTheQueueShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 8e6
		open, stores := storeServer()
		p := newPair(t, time.Minute, open)
		up, down := &road{delay: 40 * time.Millisecond, rate: rate}, &road{delay: 40 * time.Millisecond}
		p.roadLane(LaneInfo{Express: true, Direct: true}, up, down)
		p.roadLane(LaneInfo{Direct: true}, up, down)
		stop := p.longRoads(up, down)
		defer stop()
		time.Sleep(time.Second)
		c := p.carry(stores)
		over := make(chan struct{})
		var trips []time.Duration
		go func() {
			defer close(over)
			time.Sleep(copyFor / 3)
			for range 40 {
				time.Sleep(200 * time.Millisecond)
				p.ingress.mu.Lock()
				trips = append(trips, p.ingress.level.trips[0])
				p.ingress.mu.Unlock()
			}
		}()
		n := copied(c.job, c.store, copyFor)
		if float64(n) < 0.9*rate*copyFor.Seconds() {
			t.Errorf("%d bytes, %.0f would have had room", n, rate*copyFor.Seconds())
		}
		<-over
		slices.Sort(trips)
		if half := trips[len(trips)/2]; half > 110*time.Millisecond {
			t.Errorf("the round trip of small frames is %v, the path's is 80 ms", half)
		}
		t.Logf("%d bytes, %v to %v to %v", n, trips[0], trips[len(trips)/2], trips[len(trips)-1])
		_ = c.job.Close()
		<-c.report
	})
}
