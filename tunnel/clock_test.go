package tunnel

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock
		if got := time.Until(c.Now()); got != 0 {
			t.Errorf("before a hello it is %v ahead", got)
		}
		start := time.Now()
		time.Sleep(200 * time.Millisecond) // the round trip
		if got := c.Set(start.Add(time.Hour), start); got != time.Hour-100*time.Millisecond {
			t.Errorf("offset %v", got)
		}
		time.Sleep(time.Minute)
		if got := time.Until(c.Now()); got != time.Hour-100*time.Millisecond {
			t.Errorf("now is %v ahead", got)
		}
		if c.Set(time.Time{}, start) != 0 || c.Now().Equal(time.Now()) {
			t.Error("a hello without a time changed the clock")
		}
	})
}

// What the machine's time is set to after a hello changes nothing; a machine that
// slept cannot know better than its own clock.
func TestClockIsSet(t *testing.T) {
	for _, tc := range []struct {
		name                string
		wall, elapsed       time.Duration // since the hello
		wantNow, wantLatest time.Duration // by the relay's clock, since the hello
	}{
		{"nothing happened", time.Minute, time.Minute, time.Minute, time.Minute},
		{"set forward", time.Minute + time.Hour, time.Minute, time.Minute, time.Minute + time.Hour},
		{"set back", time.Minute - time.Hour, time.Minute, time.Minute, time.Minute},
		{"slept", 24 * time.Hour, time.Minute, time.Minute, 24 * time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			here := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
			wall, elapsed := here, time.Hour
			c := Clock{wall: func() time.Time { return wall }, elapsed: func() time.Duration { return elapsed }}
			relay := here.Add(-7 * time.Minute)
			now := time.Now()
			c.Set(relay, now)
			took := time.Since(now)
			wall, elapsed = wall.Add(tc.wall), elapsed+tc.elapsed
			for what, got := range map[string]struct{ at, want time.Duration }{
				"now":    {c.Now().Sub(relay), tc.wantNow},
				"latest": {c.Latest().Sub(relay), tc.wantLatest},
			} {
				if d := got.at - got.want; d < 0 || d > took {
					t.Errorf("%s is %v after the hello, want %v", what, got.at, got.want)
				}
			}
		})
	}
}
