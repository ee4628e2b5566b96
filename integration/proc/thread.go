package proc

import (
	"os/exec"
	"runtime"
	"sync"
)

// Thread runs functions on one operating-system thread, one after the other, for as long as the program lives. It
// is the parent of the children that are started on it.
type Thread struct {
	calls chan func()
}

// NewThread starts a thread and runs prepare on it first; if that fails, the thread ends.
func NewThread(prepare func() error) (*Thread, error) {
	t := &Thread{calls: make(chan func())}
	prepared := make(chan error)
	go t.run(prepare, prepared)
	return t, <-prepared
}

// run never returns after prepare succeeded: children would be killed. It does not unlock the thread where prepare
// failed, so that the runtime throws the thread away.
func (t *Thread) run(prepare func() error, prepared chan<- error) {
	runtime.LockOSThread()
	err := prepare()
	prepared <- err
	if err != nil {
		return
	}
	for f := range t.calls {
		f()
	}
}

// Do runs f on the thread and waits for it.
func (t *Thread) Do(f func()) {
	done := make(chan struct{})
	t.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Start implements Starter.
func (t *Thread) Start(cmd *exec.Cmd) (err error) {
	t.Do(func() { err = cmd.Start() })
	return err
}

// here is the thread that forks the children of this machine.
var here = sync.OnceValue(func() *Thread {
	t, err := NewThread(func() error { return nil })
	if err != nil {
		panic("proc: BUG: a thread that prepares nothing failed: " + err.Error())
	}
	return t
})
