package relay

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// maxBadTokens is how many bad tokens a source may show in suspicion before
	// each costs it a connection.
	maxBadTokens = 100
	suspicion    = time.Minute
	// maxSuspects bounds the sources that are remembered.
	maxSuspects = 4096
)

// suspects counts bad tokens by where they come from. A good token is good from
// everywhere: jobs behind one address do not pay for each other.
type suspects struct {
	mu sync.Mutex
	// guarded by mu
	since time.Time
	count map[netip.Addr]int
}

// bad counts a bad token. true: there were too many from there lately.
func (s *suspects) bad(peer string, now time.Time) bool {
	source := sourceOf(peer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil || now.Sub(s.since) > suspicion || len(s.count) >= maxSuspects {
		s.since, s.count = now, make(map[netip.Addr]int)
	}
	s.count[source]++
	return s.count[source] > maxBadTokens
}

// sourceOf is the address, of IPv6 the network of 64 bits that one machine may
// have to itself.
func sourceOf(peer string) netip.Addr {
	at, err := netip.ParseAddrPort(peer)
	if err != nil {
		return netip.Addr{}
	}
	a := at.Addr().Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.Addr()
	}
	return a
}
