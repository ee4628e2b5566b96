package wan

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// look is how often a busy forwarder looks for new and due packets.
	look = 200 * time.Microsecond

	// turn bounds what is read before due packets are written again.
	turn = 256
)

// Counts are what one way has done.
type Counts struct {
	Packets, Bytes uint64 // that arrived
	Lost           uint64 // at random
	Overflowed     uint64 // no room before the bottleneck
	Cut            uint64 // while the way was cut
}

// forwarder carries packets one way.
type forwarder struct {
	from, to int      // TUN devices, non-blocking
	stop     *os.File // becomes readable at the end
	shape    atomic.Pointer[Shape]
	cut      atomic.Bool

	packets, bytes, lost, overflowed, lostToCut atomic.Uint64

	// owned by run
	line  *line
	start time.Time
	queue []packet
	head  int // of the queue
	spare []*[mtu]byte
}

// packet is on its way.
type packet struct {
	due time.Duration // since start
	n   int
	buf *[mtu]byte
}

// run forwards until stop is readable. It has a thread of its own, which goes first where the machine is busy: what it
// does late, the link does late.
func (f *forwarder) run() error {
	runtime.LockOSThread() // never unlocked: the thread ends with it
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -15)
	stop := unix.PollFd{Fd: int32(f.stop.Fd()), Events: unix.POLLIN}
	input := unix.PollFd{Fd: int32(f.from), Events: unix.POLLIN}
	for {
		for range turn {
			more, err := f.take()
			if err != nil {
				return err
			}
			if !more {
				break
			}
		}
		wait, err := f.deliver()
		if err != nil {
			return err
		}
		// Packets come in crowds: let some gather, then wait for more or for the next one that is due.
		if stopped, err := poll(look, stop); err != nil || stopped {
			return err
		}
		if wait > look {
			wait -= look
		} else if wait >= 0 {
			continue
		}
		if _, err := poll(wait, stop, input); err != nil {
			return err
		}
	}
}

// poll waits until the time is over (negative: forever) or one of the files is readable; then it tells whether the first
// one is.
func poll(d time.Duration, files ...unix.PollFd) (first bool, err error) {
	var limit *unix.Timespec
	if d >= 0 {
		limit = new(unix.NsecToTimespec(int64(d)))
	}
	if _, err := unix.Ppoll(files, limit, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("wan: poll: %w", err)
	}
	return files[0].Revents != 0, nil
}

// take reads one packet, if there is one.
func (f *forwarder) take() (more bool, err error) {
	buf := f.buffer()
	n, err := unix.Read(f.from, buf[:])
	if err != nil {
		f.spare = append(f.spare, buf)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return false, fmt.Errorf("wan: read: %w", err)
	}
	due, what := f.line.admit(time.Since(f.start), n, *f.shape.Load())
	switch {
	case f.cut.Load():
		f.lostToCut.Add(1)
	case what == lost:
		f.lost.Add(1)
	case what == overflowed:
		f.overflowed.Add(1)
	default:
		f.queue = append(f.queue, packet{due: due, n: n, buf: buf})
		return true, nil
	}
	f.spare = append(f.spare, buf)
	return true, nil
}

func (f *forwarder) buffer() *[mtu]byte {
	if n := len(f.spare); n > 0 {
		buf := f.spare[n-1]
		f.spare = f.spare[:n-1]
		return buf
	}
	return new([mtu]byte)
}

// deliver writes what is due, and returns how long the next packet has to wait; negative: there is none.
func (f *forwarder) deliver() (wait time.Duration, err error) {
	for now := time.Since(f.start); f.head < len(f.queue); f.head++ {
		p := f.queue[f.head]
		if p.due > now {
			f.compact()
			return p.due - now, nil
		}
		f.spare = append(f.spare, p.buf)
		if f.cut.Load() {
			f.lostToCut.Add(1)
			continue
		}
		if _, err := unix.Write(f.to, p.buf[:p.n]); err != nil && !errors.Is(err, unix.EAGAIN) {
			return 0, fmt.Errorf("wan: write: %w", err)
		}
		f.packets.Add(1)
		f.bytes.Add(uint64(p.n))
	}
	f.compact()
	return -1, nil
}

// compact forgets what the queue no longer holds.
func (f *forwarder) compact() {
	if f.head > len(f.queue)/2 {
		f.queue = f.queue[:copy(f.queue, f.queue[f.head:])]
		f.head = 0
	}
}

func (f *forwarder) counts() Counts {
	return Counts{
		Packets: f.packets.Load(), Bytes: f.bytes.Load(), Lost: f.lost.Load(),
		Overflowed: f.overflowed.Load(), Cut: f.lostToCut.Load(),
	}
}
