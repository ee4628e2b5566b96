package tunnel

import (
	"slices"
	"sync"
)

// Places is how many relays an end keeps sessions to at once, where there are so
// many.
const Places = 2

// Roster is the relays of an instance, as a connector or a client knows them, and
// which of them have its places. Its methods may be called from any goroutine.
//
// The relays are the seeds, in their order, and then those that a relay told of.
// A place keeps its relay until that fails and there is another one to try, or
// until it is no more in the roster.
type Roster struct {
	mu sync.Mutex
	// guarded by mu
	seeds   []Endpoint
	only    bool // the seeds are all there are
	told    []RelayInfo
	who     map[Endpoint]string // identities of what answered at seeds
	places  [Places]Endpoint    // zero: nobody has it
	there   [Places]string      // identities of those that have a session
	refused [Places]verdict
	changed chan struct{} // closed and replaced at each change
}

// verdict is what a place's last attempt came to.
type verdict uint8

const (
	undecided verdict = iota // none failed yet, or a session is up
	failing
	refusing // in a way that trying again does not mend
)

// NewRoster makes a roster. only: what relays tell of others does not count.
func NewRoster(seeds []Endpoint, only bool, told []RelayInfo) *Roster {
	r := &Roster{told: told, who: make(map[Endpoint]string), changed: make(chan struct{})}
	r.Reseed(seeds, only)
	return r
}

// Reseed puts other seeds in the place of those of before.
func (r *Roster) Reseed(seeds []Endpoint, only bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(r.seeds, seeds) && r.only == only {
		return
	}
	r.seeds, r.only = slices.Clone(seeds), only
	for at := range r.who {
		if !slices.Contains(seeds, at) {
			delete(r.who, at)
		}
	}
	r.assignLocked()
	r.changedLocked()
}

// Learn takes what a relay told of the relays; none is nothing told. It tells
// whether that is news.
func (r *Roster) Learn(told []RelayInfo) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(told) == 0 || slices.Equal(r.told, told) {
		return false
	}
	r.told = slices.Clone(told)
	r.assignLocked()
	r.changedLocked()
	return true
}

// Told is what was learnt last.
func (r *Roster) Told() []RelayInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

// All are the relays that there are.
func (r *Roster) All() []Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allLocked()
}

// Changed is closed when something changes.
func (r *Roster) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Place is the relay that has a place, if there is one; changed is closed when
// that may be another one.
func (r *Roster) Place(i int) (at Endpoint, ok bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.places[i], r.places[i] != Endpoint{}, r.changed
}

// Arrived is told that a place has a session, with whom. It refuses a relay that
// has the other place.
func (r *Roster) Arrived(i int, at Endpoint, identity string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, there := range r.there {
		if other != i && there == identity {
			return Errorf("relay-twice", "relay", "name each relay once: two names that lead to the same relay are one",
				"%s is the relay that there is a session with already, %s", at.Host, identity)
		}
	}
	r.there[i], r.refused[i] = identity, undecided
	if slices.Contains(r.seeds, at) && r.who[at] != identity {
		r.who[at] = identity
		r.assignLocked()
		r.changedLocked()
	}
	return nil
}

// Left is told that a place has no session any more.
func (r *Roster) Left(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.there[i] = ""
}

// There is the identity of the relay that a place has a session with; "": none.
func (r *Roster) There(i int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.there[i]
}

// Failed is told that a place's relay could not be used: the next one has it from
// now on, if there is one that has no place.
func (r *Roster) Failed(i int, at Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused[i] = max(r.refused[i], failing)
	all := r.allLocked()
	from := slices.Index(all, at)
	if r.places[i] != at || from < 0 {
		return
	}
	for n := range all {
		next := all[(from+1+n)%len(all)]
		if next != at && !slices.Contains(r.places[:], next) {
			r.places[i], r.refused[i] = next, undecided
			r.changedLocked()
			return
		}
	}
}

// Hopeless is told that a place's relay refused in a way that trying again does
// not mend. It tells whether that is so of all: a relay alone may not know yet
// what another one knows.
func (r *Roster) Hopeless(i int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused[i] = refusing
	for other, at := range r.places {
		if at != (Endpoint{}) && r.refused[other] == undecided {
			return false
		}
	}
	return true
}

// allLocked are the seeds and what was told, each relay once as far as is known.
func (r *Roster) allLocked() []Endpoint {
	all := slices.Clone(r.seeds)
	if r.only {
		return all
	}
	named := make(map[string]bool)
	for _, identity := range r.who {
		named[identity] = true
	}
	for _, info := range r.told {
		at := info.Endpoint()
		if !named[info.Identity] && !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	return all
}

// assignLocked gives places that nobody has, or whose relay is gone, to those
// that have none.
func (r *Roster) assignLocked() {
	all := r.allLocked()
	for i, at := range r.places {
		if !slices.Contains(all, at) {
			r.places[i], r.refused[i] = Endpoint{}, undecided
		}
	}
	for i, at := range r.places {
		free := slices.IndexFunc(all, func(e Endpoint) bool { return !slices.Contains(r.places[:], e) })
		if at == (Endpoint{}) && free >= 0 {
			r.places[i] = all[free]
		}
	}
}

func (r *Roster) changedLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}
