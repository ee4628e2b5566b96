//go:build unix

package bundle

import (
	"net"
	"os"
	"syscall"
)

// Prompt writes to a TCP connection as far as the kernel takes it, and never
// waits. One goroutine at a time uses it, and nobody else writes meanwhile.
type Prompt struct {
	raw  syscall.RawConn
	step func(fd uintptr) bool // writeOnce, bound once

	// of the write under way
	p   []byte
	n   int
	err error
}

// NewPrompt makes one for conn; nil where conn is not TCP.
func NewPrompt(conn net.Conn) *Prompt {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	w := &Prompt{raw: raw}
	w.step = w.writeOnce
	return w
}

// WriteNow writes the beginning of p. n < len(p) without an error: the kernel
// takes no more now.
func (w *Prompt) WriteNow(p []byte) (n int, err error) {
	w.p, w.n, w.err = p, 0, nil
	err = w.raw.Write(w.step)
	w.p = nil
	if err == nil {
		err = w.err
	}
	return w.n, err
}

func (w *Prompt) writeOnce(fd uintptr) bool {
	for w.n < len(w.p) {
		n, err := syscall.Write(int(fd), w.p[w.n:])
		switch err {
		case nil:
			w.n += n
		case syscall.EINTR:
		case syscall.EAGAIN:
			return true
		default:
			w.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}
