package tunnel

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// maxRecords is how many records the keys of one TLS connection protect in each
// direction. crypto/tls never updates them, and AES-GCM is good for about 2^24.5
// records of full size (RFC 8446 §5.5).
const maxRecords = 1 << 24

// wornAfter is maxRecords; tests have connections wear out earlier.
var wornAfter atomic.Uint64

func init() { wornAfter.Store(maxRecords) }

// wear tells when a connection has to be replaced by another one.
type wear struct {
	once sync.Once
	out  chan struct{} // closed then
	why  string        // written before
}

func newWear() *wear { return &wear{out: make(chan struct{})} }

// Worn is Link's.
func (w *wear) Worn() <-chan struct{} { return w.out }

// Wear is Link's.
func (w *wear) Wear(why string) {
	w.once.Do(func() {
		w.why = why
		close(w.out)
	})
}

func (w *wear) worn() bool {
	select {
	case <-w.out:
		return true
	default:
		return false
	}
}

const recordHeader = 5

// recordCount counts the TLS records of one direction by their headers (RFC 8446
// §5.1), however the bytes are cut into pieces. One goroutine at a time uses it.
type recordCount struct {
	records uint64
	body    int // bytes of the record that are to come
	have    int // bytes of a header that is not whole yet
	header  [recordHeader]byte
}

// pass takes the next bytes.
func (c *recordCount) pass(p []byte, w *wear) {
	for len(p) > 0 {
		if c.body > 0 {
			n := min(c.body, len(p))
			c.body -= n
			p = p[n:]
			continue
		}
		n := copy(c.header[c.have:], p)
		c.have += n
		p = p[n:]
		if c.have < recordHeader {
			return
		}
		c.have, c.body = 0, int(binary.BigEndian.Uint16(c.header[3:]))
		if c.records++; c.records >= wornAfter.Load() {
			w.Wear("records")
		}
	}
}

// WearAfter has the connections of this process wear out after so many records,
// until restore is called. It is for tests: 2^24 are a quarter of a terabyte.
func WearAfter(records uint64) (restore func()) {
	before := wornAfter.Swap(records)
	return func() { wornAfter.Store(before) }
}
