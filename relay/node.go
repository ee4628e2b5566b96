package relay

import (
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// node is a connector process that is here now: its sessions, what it reported,
// and the bundle of the relay's own ingresses.
type node struct {
	// static after construction
	key         nodeKey
	identity    certs.Identity
	incarnation string

	mu sync.Mutex
	// guarded by mu
	control *tunnel.Session // the newest that is up
	bulk    *tunnel.Session // the same, on TCP carriers, once it is there
	older   []olderSession  // that are up, too
	swapped chan struct{}   // closed and replaced when control or bulk is another one
	hello   tunnel.Hello
	report  tunnel.Heartbeat
	since   time.Time
	leaving bool // it drains
	// confirms is the incarnation of another process that came to another relay
	// under the same identity, while this one answered.
	confirms string
	expires  time.Time      // of the newest certificate that was issued to it
	own      *bundle.Bundle // for the relay's ingresses
}

// olderSession is a session that a newer one took the place of. It has that again
// when the newer one goes first: a node that knows a relay by two names, say, has
// a second session there and ends it when it sees who that is.
type olderSession struct {
	session *tunnel.Session
	role    string
}

// arriveLocked gives a new session its place.
func (n *node) arriveLocked(s *tunnel.Session, role string) {
	place := &n.control
	if role == tunnel.RoleBulk {
		place = &n.bulk
	}
	if *place != nil {
		n.older = append(n.older, olderSession{*place, role})
	}
	*place = s
	n.swappedLocked()
}

// departLocked takes a session out.
func (n *node) departLocked(s *tunnel.Session) {
	n.older = slices.DeleteFunc(n.older, func(o olderSession) bool { return o.session == s })
	for role, place := range map[string]**tunnel.Session{tunnel.RoleControl: &n.control, tunnel.RoleBulk: &n.bulk} {
		if *place != s {
			continue
		}
		*place = nil
		for i := len(n.older) - 1; i >= 0 && *place == nil; i-- {
			if n.older[i].role == role {
				*place = n.older[i].session
				n.older = slices.Delete(n.older, i, i+1)
			}
		}
		n.swappedLocked()
	}
}

// onQUICLocked tells whether the control session is for everything, also where one
// for bulk is still there.
func (n *node) onQUICLocked() bool {
	return n.control != nil && n.control.Link().Carrier() == tunnel.QUIC
}

func (n *node) swappedLocked() {
	if n.swapped != nil {
		close(n.swapped)
		n.swapped = nil
	}
}

// superseded gives, where the node has a newer session in the place of s, what is
// closed when that may have changed; nil: s has its place.
func (n *node) superseded(s *tunnel.Session, role string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s == n.control && role != tunnel.RoleBulk || s == n.bulk && role == tunnel.RoleBulk && !n.onQUICLocked() {
		return nil
	}
	if n.swapped == nil {
		n.swapped = make(chan struct{})
	}
	return n.swapped
}

// session gives the session for lanes of a class: the express lane goes over
// the control session, others over the bulk session where there is one.
func (n *node) session(express bool) *tunnel.Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !express && n.bulk != nil && !n.onQUICLocked() {
		return n.bulk
	}
	return n.control
}

// bundle is the bundle of the relay's own ingresses; nil: there is none yet.
func (n *node) bundle() *bundle.Bundle {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own == nil || n.own.Err() != nil {
		return nil
	}
	return n.own
}

// store finds a store that the node announced.
func (n *node) store(name string) (tunnel.StoreInfo, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.hello.Stores, func(s tunnel.StoreInfo) bool { return s.Name == name })
	if i < 0 {
		return tunnel.StoreInfo{}, false
	}
	return n.hello.Stores[i], true
}

// stores are what the node announced.
func (n *node) stores() []tunnel.StoreInfo {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hello.Stores // never changed, only replaced
}

// configure takes over a changed configuration, where s is the node's control
// session.
func (n *node) configure(s *tunnel.Session, c tunnel.NodeConfig) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.control != s {
		return false
	}
	n.hello.Stores = c.Stores
	return true
}
