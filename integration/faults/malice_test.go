//go:build unix

package faults

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
)

// deed is what a malicious relay does to a unit of what it moves: a TLS record, where a connection shows its own, else
// what one read gave.
type deed int

const (
	flip     deed = iota // one bit
	lose                 // some bytes out of the middle
	drop                 // the unit
	swap                 // it with the next one
	repeat               // it at once
	stutter              // some of its bytes
	replay               // an older one, of this connection or another, after it
	replace              // it by an older one
	insert               // random bytes
	end                  // the connection after it, as if it were over
	truncate             // the connection in its middle
	deeds
)

var deedNames = [deeds]string{
	"flip", "lose", "drop", "swap", "repeat", "stutter", "replay", "replace", "insert", "end", "truncate",
}

// memory is how many units are kept to be replayed.
const memory = 64

// malice is what a malicious relay does on all connections that it moves. A nil one does nothing.
type malice struct {
	lanesOnly bool // connections that show that they are lanes
	pause     int  // mean number of units between two deeds

	mu   sync.Mutex
	rand *rand.Rand // guarded by mu
	done [deeds]int // guarded by mu
	next deed       // guarded by mu
	kept [][]byte   // guarded by mu
	held []byte     // a datagram that comes after the next one; guarded by mu
}

func newMalice(seed uint64, lanesOnly bool, pause int) *malice {
	m := &malice{lanesOnly: lanesOnly, pause: pause, rand: rand.New(rand.NewPCG(seed, 2))}
	m.next = deed(m.rand.IntN(int(deeds)))
	return m
}

// least is how often the rarest deed was done.
func (m *malice) least() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	least := m.done[0]
	for _, n := range m.done {
		least = min(least, n)
	}
	return least
}

func (m *malice) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for d, n := range m.done {
		fmt.Fprintf(&b, " %s %d", deedNames[d], n)
	}
	return b.String()[1:]
}

// spoilers are those of a connection's two directions.
func (m *malice) spoilers() (both [2]*spoiler) {
	if m == nil {
		return both
	}
	c := &spoiled{all: !m.lanesOnly}
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := range both {
		both[w] = &spoiler{malice: m, conn: c, way: way(w), wait: m.waitLocked()}
	}
	return both
}

func (m *malice) waitLocked() int { return m.rand.IntN(2*m.pause) + 1 }

// datagram is what becomes of one.
func (m *malice) datagram(b []byte) [][]byte {
	if m == nil || m.lanesOnly {
		return [][]byte{b}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepLocked(b)
	held := m.held
	m.held = nil
	out := [][]byte{b}
	if m.rand.IntN(m.pause) == 0 {
		out, _ = m.doLocked(b, &m.held)
	}
	if held != nil {
		out = append(out, held)
	}
	return out
}

// doLocked does the next deed to a unit. held is where one may be kept back.
func (m *malice) doLocked(unit []byte, held *[]byte) (out [][]byte, over bool) {
	d := m.next
	m.next = (m.next + 1) % deeds
	m.done[d]++
	some := func(b []byte) []byte { // of its bytes
		from := m.rand.IntN(len(b))
		return b[from : from+m.rand.IntN(len(b)-from)+1]
	}
	switch d {
	case flip:
		unit = bytes.Clone(unit)
		unit[m.rand.IntN(len(unit))] ^= 1 << m.rand.IntN(8)
	case lose:
		part := len(some(unit))
		from := m.rand.IntN(len(unit) - part + 1)
		return [][]byte{unit[:from], unit[from+part:]}, false
	case drop:
		return nil, false
	case swap:
		*held = bytes.Clone(unit)
		return nil, false
	case repeat:
		return [][]byte{unit, unit}, false
	case stutter:
		return [][]byte{unit, some(unit)}, false
	case replay, replace:
		if len(m.kept) == 0 {
			return [][]byte{unit, unit}, false
		}
		old := m.kept[m.rand.IntN(len(m.kept))]
		if d == replace {
			return [][]byte{old}, false
		}
		return [][]byte{unit, old}, false
	case insert:
		junk := make([]byte, m.rand.IntN(100)+1)
		for i := range junk {
			junk[i] = byte(m.rand.Uint32())
		}
		at := m.rand.IntN(len(unit))
		return [][]byte{unit[:at], junk, unit[at:]}, false
	case end:
		return [][]byte{unit}, true
	case truncate:
		return [][]byte{unit[:m.rand.IntN(len(unit))]}, true
	}
	return [][]byte{unit}, false
}

// keepLocked keeps a unit to be replayed.
func (m *malice) keepLocked(unit []byte) {
	if len(m.kept) < memory {
		m.kept = append(m.kept, bytes.Clone(unit))
	} else if i := m.rand.IntN(8 * memory); i < memory {
		m.kept[i] = bytes.Clone(unit)
	}
}

// spoiled is what the spoilers of one connection share.
type spoiled struct {
	mu  sync.Mutex
	all bool // it is to be spoiled; guarded by mu
}

// spoiler spoils one direction of a connection. One goroutine uses it.
type spoiler struct {
	malice *malice
	conn   *spoiled
	way    way

	seen int    // units
	wait int    // units until the next deed
	held []byte // a unit that comes after the next one
	buf  []byte // read and not yet given
	raw  bool   // these are no TLS records
}

// units cuts what a connection gives.
type units interface {
	next(from net.Conn) ([]byte, error)
}

// raw cuts it as it comes.
type raw []byte

func (r raw) next(from net.Conn) ([]byte, error) {
	n, err := from.Read(r)
	return r[:n], err
}

// next gives a TLS record, or the line before the first one, or what there is.
func (s *spoiler) next(from net.Conn) ([]byte, error) {
	for {
		if unit := s.cut(); unit != nil {
			return unit, nil
		}
		more := make([]byte, 32<<10)
		n, err := from.Read(more)
		s.buf = append(s.buf, more[:n]...)
		if err != nil {
			rest := s.buf
			s.buf = nil
			return rest, err
		}
	}
}

const record = 5 // bytes of a TLS record's header

func (s *spoiler) cut() (unit []byte) {
	take := func(n int) []byte {
		unit := s.buf[:n:n]
		s.buf = s.buf[n:]
		return unit
	}
	switch {
	case len(s.buf) == 0:
		return nil
	case s.raw:
		return take(len(s.buf))
	case s.seen == 0 && bytes.HasPrefix(s.buf, []byte("EBB")):
		if i := bytes.IndexByte(s.buf, '\n'); i >= 0 {
			return take(i + 1)
		}
		return nil
	case s.buf[0] < 20 || s.buf[0] > 24:
		s.raw = true
		return take(len(s.buf))
	case len(s.buf) < record:
		return nil
	}
	n := record + (int(s.buf[3])<<8 | int(s.buf[4]))
	if len(s.buf) < n {
		return nil
	}
	return take(n)
}

// spoil is what becomes of a unit, and whether the connection is over after it.
func (s *spoiler) spoil(unit []byte) (out [][]byte, over bool) {
	s.seen++
	s.conn.mu.Lock()
	if s.way == up && s.seen == 1 && (bytes.HasPrefix(unit, []byte("EBBLANE ")) || bytes.Contains(unit, []byte("ebbgate-lane/1"))) {
		s.conn.all = true
	}
	all := s.conn.all
	s.conn.mu.Unlock()
	if !all {
		return [][]byte{unit}, false
	}
	m := s.malice
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keepLocked(unit)
	if s.wait--; s.wait > 0 {
		out = [][]byte{unit}
	} else {
		s.wait = m.waitLocked()
		out, over = m.doLocked(unit, &s.held)
		if out == nil {
			return nil, false
		}
	}
	if s.held != nil {
		out, s.held = append(out, s.held), nil
	}
	return out, over
}
