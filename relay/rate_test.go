package relay

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestEnrolmentRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRateLimit()
		take := func(host string, n int) (allowed int) {
			for range n {
				if l.allow(host, time.Now()) {
					allowed++
				}
			}
			return allowed
		}
		if n := take("nat", 1000); n != enrolHostBurst {
			t.Errorf("%d at once from one address, want %d", n, enrolHostBurst)
		}
		if n := take("other", 10); n != 10 {
			t.Errorf("%d of 10 from another address", n)
		}
		time.Sleep(3 * time.Second)
		if n := take("nat", 1000); n != 3*enrolHostRate {
			t.Errorf("%d after three seconds, want %d", n, 3*enrolHostRate)
		}
		time.Sleep(time.Hour)
		all := 0
		for i := range 2000 {
			all += take(fmt.Sprint("host", i), 1)
		}
		if all != enrolBurst {
			t.Errorf("%d at once from 2000 addresses, want %d", all, enrolBurst)
		}
		for i := range 60 { // ten minutes of a hundred new addresses each second
			time.Sleep(10 * time.Second)
			for j := range 2000 {
				take(fmt.Sprint("late", i, " ", j), 1)
			}
		}
		if n := len(l.hosts); n > 3*enrolBurst {
			t.Errorf("%d addresses are remembered", n)
		}
	})
}
