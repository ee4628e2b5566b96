package bundle

import (
	"runtime/debug"
	"sync"
)

// DefaultPoolSize is the pool of a process that configures none and has no limit
// of its memory, in bytes.
const DefaultPoolSize = 512 << 20

// Pool bounds the memory of all bundles that share it. Half of it backs credit
// that was granted to far ends, half backs chunks that this end read and keeps
// until the far end consumed them; so neither starves the other. It is safe
// for concurrent use.
type Pool struct {
	credit budget
	kept   budget
}

// ProcessPool makes the pool of a process that configures none: DefaultPoolSize,
// or half of what the process may take at all (GOMEMLIMIT) where that is less.
func ProcessPool() *Pool {
	return NewPool(min(DefaultPoolSize, debug.SetMemoryLimit(-1)/2))
}

// NewPool makes a pool of so many bytes, at least 1 MiB.
func NewPool(bytes int64) *Pool {
	half := max(bytes, 1<<20) / 2
	return &Pool{credit: budget{limit: half}, kept: budget{limit: half}}
}

// Used is how many bytes are reserved now.
func (p *Pool) Used() int64 { return p.credit.inUse() + p.kept.inUse() }

// budget counts reservations up to a limit and queues who has to wait.
type budget struct {
	mu      sync.Mutex
	limit   int64
	used    int64
	waiters []*waiter // first come, first served
}

type waiter struct {
	n     int64
	ready chan struct{} // closed by whoever makes the reservation for it
}

func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// short tells that less than a quarter is left: what can shrink, should.
func (b *budget) short() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used > b.limit/4*3
}

// allowance is how many bytes one stream should hold at most: a stream whose far
// socket takes nothing keeps what it has, and must not keep all of it from the
// others.
func (b *budget) allowance() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch free := (b.limit - b.used) / (b.limit / 8); {
	case free >= 4:
		return 2 * maxWindow // no bound
	case free >= 3:
		return 1 << 20
	case free >= 2:
		return initialCredit
	case free >= 1:
		return scarceCredit
	}
	return leastCredit
}

// try reserves n bytes if they are there within so many quarters of the budget:
// what only makes a stream faster leaves room for what a stream cannot do
// without.
func (b *budget) try(n int64, quarters int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.limit/4*quarters || len(b.waiters) > 0 {
		return false
	}
	b.used += n
	return true
}

// reserve waits until n bytes are there; it returns false if done closes first.
func (b *budget) reserve(done <-chan struct{}, n int64) bool {
	b.mu.Lock()
	if len(b.waiters) == 0 && b.used+n <= b.limit {
		b.used += n
		b.mu.Unlock()
		return true
	}
	w := &waiter{n: n, ready: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	select {
	case <-w.ready:
		return true
	case <-done:
		b.abandon(w)
		return false
	}
}

// abandon takes w out of the queue, or gives back what it just got.
func (b *budget) abandon(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.waiters {
		if x == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.serveLocked()
			return
		}
	}
	b.used -= w.n // it was served in this very moment
	b.serveLocked()
}

func (b *budget) release(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.used < 0 {
		panic("bundle: BUG: more released than reserved")
	}
	b.serveLocked()
}

func (b *budget) serveLocked() {
	for len(b.waiters) > 0 && b.used+b.waiters[0].n <= b.limit {
		w := b.waiters[0]
		b.waiters[0] = nil
		b.waiters = b.waiters[1:]
		b.used += w.n
		close(w.ready)
	}
}

// Buffers come in classes; a chunk takes the smallest that holds it.
var classSizes = [...]int{1 << 10, 4 << 10, 16 << 10, 64 << 10, maxChunk}

var buffers [len(classSizes)]sync.Pool

func classFor(n int) int {
	for i, size := range classSizes {
		if n <= size {
			return i
		}
	}
	panic("bundle: BUG: chunk above the largest class")
}

// buffer is a block of memory with room for a DATA header before its bytes.
type buffer struct {
	class int
	block []byte
}

func takeBuffer(n int) *buffer {
	class := classFor(n)
	if b, ok := buffers[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{class: class, block: make([]byte, headroom+classSizes[class])}
}

func (b *buffer) give()              { buffers[b.class].Put(b) }
func (b *buffer) data() []byte       { return b.block[headroom:] }
func (b *buffer) frame(n int) []byte { return b.block[:headroom+n] }
func (b *buffer) size() int64        { return int64(classSizes[b.class]) }
