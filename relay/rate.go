package relay

import (
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// Enrolments cost signatures and a write of the state, and nobody needs many:
// one for each node ever, one an hour for each process of a job.
const (
	enrolRate      = 100 // a second, of all addresses
	enrolBurst     = 500
	enrolHostRate  = 10 // a second, of one address, which may be a whole company
	enrolHostBurst = 100
)

// rateLimit bounds how often something is done, by address and in all.
type rateLimit struct {
	mu sync.Mutex
	// guarded by mu
	all   bucket
	hosts map[string]bucket // addresses that were seen and are not full again
}

func newRateLimit() *rateLimit { return &rateLimit{hosts: make(map[string]bucket)} }

// bucket is how many more there may be, as of a time. The zero value is full.
type bucket struct {
	used float64
	at   time.Time
}

// take uses one of a bucket of size that fills at rate a second; false: none is left.
func (b bucket) take(now time.Time, rate, size float64) (bucket, bool) {
	return b.takeSome(1, now, rate, size)
}

func (b bucket) takeSome(n float64, now time.Time, rate, size float64) (bucket, bool) {
	b.used = max(0, b.used-max(0, now.Sub(b.at).Seconds())*rate)
	b.at = now
	if b.used+n > size {
		return b, false
	}
	b.used += n
	return b, true
}

// allow takes one for an address. One address cannot use up what is for all, and
// no more addresses are remembered than all may use.
func (l *rateLimit) allow(host string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, ok := l.hosts[host].take(now, enrolHostRate, enrolHostBurst)
	if !ok {
		return false
	}
	all, ok := l.all.take(now, enrolRate, enrolBurst)
	if !ok {
		return false
	}
	l.all, l.hosts[host] = all, own
	if len(l.hosts) > 2*enrolBurst {
		for h, b := range l.hosts {
			if now.Sub(b.at).Seconds()*enrolHostRate >= b.used {
				delete(l.hosts, h)
			}
		}
	}
	return true
}

// What one identity may report of streams that are over: more than any honest one
// does, so that nobody fills the activity record alone.
const (
	endsRate  = 10_000 // a second
	endsBurst = 60_000
)

// reportLimit bounds what is reported, by identity.
type reportLimit struct {
	mu sync.Mutex
	// guarded by mu
	of map[certs.Identity]bucket // those that are not full again
}

func newReportLimit() *reportLimit { return &reportLimit{of: make(map[certs.Identity]bucket)} }

// allow takes n for an identity.
func (l *reportLimit) allow(id certs.Identity, n int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.of[id].takeSome(float64(n), now, endsRate, endsBurst)
	l.of[id] = b
	if len(l.of) > 1024 {
		for other, b := range l.of {
			if now.Sub(b.at).Seconds()*endsRate >= b.used {
				delete(l.of, other)
			}
		}
	}
	return ok
}
