package tunnel

import "sync"

// slots bound goroutines of one kind.
type slots chan struct{}

func newSlots(n int) slots { return make(slots, n) }

// try runs f in a goroutine of tasks if there is a slot.
func (s slots) try(tasks *sync.WaitGroup, f func()) bool {
	select {
	case s <- struct{}{}:
	default:
		return false
	}
	tasks.Go(func() {
		defer func() { <-s }()
		f()
	})
	return true
}
