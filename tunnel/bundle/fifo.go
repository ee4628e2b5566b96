package bundle

import "slices"

// fifo is a queue whose memory follows its length.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }

func (q *fifo[T]) push(v T) { q.items = append(q.items, v) }

func (q *fifo[T]) pushFront(v T) {
	if q.head > 0 {
		q.head--
		q.items[q.head] = v
		return
	}
	q.items = slices.Insert(q.items, 0, v)
}

func (q *fifo[T]) front() *T { return &q.items[q.head] }

func (q *fifo[T]) back() *T { return &q.items[len(q.items)-1] }

func (q *fifo[T]) pop() T {
	var zero T
	v := q.items[q.head]
	q.items[q.head] = zero
	q.head++
	switch {
	case q.head == len(q.items):
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > 1024 {
			q.items = nil
		}
	case q.head >= 64 && q.head*2 >= len(q.items):
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return v
}

// clear drops everything.
func (q *fifo[T]) clear() { q.items, q.head = nil, 0 }

// all is the queue's content, front first; valid until the next change.
func (q *fifo[T]) all() []T { return q.items[q.head:] }

// seenSet remembers which stream numbers were ever seen: every one below low,
// and those in sparse above it.
type seenSet struct {
	low    uint64
	sparse map[uint64]struct{}
}

func (s *seenSet) has(id uint64) bool {
	if id < s.low {
		return true
	}
	_, ok := s.sparse[id]
	return ok
}

// add marks id; it returns false when id runs too far ahead of the others.
func (s *seenSet) add(id uint64) bool {
	switch {
	case id < s.low:
		return true
	case id-s.low > maxStreamGap:
		return false
	case id > s.low:
		if s.sparse == nil {
			s.sparse = make(map[uint64]struct{})
		}
		s.sparse[id] = struct{}{}
		return true
	}
	for s.low++; ; s.low++ {
		if _, ok := s.sparse[s.low]; !ok {
			return true
		}
		delete(s.sparse, s.low)
	}
}
