//go:build unix

package bundle

import (
	"io"
	"net"
	"os"
	"syscall"
)

// readySource waits until the kernel has bytes and only then takes a buffer.
type readySource struct {
	raw  syscall.RawConn
	s    *Stream
	step func(fd uintptr) bool // readReady, bound once

	// of the read under way
	max int
	buf *buffer
	n   int
	err error
	dry bool // bytes are there, the pool is not
}

func newSource(sock Socket, s *Stream) source {
	tcp, ok := sock.(*net.TCPConn)
	if !ok {
		return plainSource{sock, s}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return plainSource{sock, s}
	}
	r := &readySource{raw: raw, s: s}
	r.step = r.readReady
	return r
}

func (r *readySource) read(max int) (*buffer, int, error) {
	r.max, r.n, r.err = max, 0, nil
	for {
		r.dry = false
		if err := r.raw.Read(r.step); err != nil {
			r.drop()
			return nil, 0, err
		}
		if !r.dry {
			break
		}
		if r.buf = r.s.reserve(r.max); r.buf == nil {
			return nil, 0, nil
		}
	}
	if r.n == 0 {
		r.drop()
		if r.err == nil {
			r.err = io.EOF
		}
	}
	buf := r.buf
	r.buf = nil
	return buf, r.n, r.err
}

// readReady tries one read; false makes the runtime wait for more bytes.
func (r *readySource) readReady(fd uintptr) bool {
	if r.buf == nil {
		r.max = min(r.max, r.s.b.cfg.Pool.kept.allowance())
		if !r.s.b.cfg.Pool.kept.try(int64(classSizes[classFor(r.max)]), 4) {
			r.dry = true
			return true
		}
		r.buf = takeBuffer(r.max)
	}
	for {
		n, err := syscall.Read(int(fd), r.buf.data()[:r.max])
		switch err {
		case nil:
			r.n = n
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.drop()
			return false
		}
		r.err = os.NewSyscallError("read", err)
		return true
	}
}

func (r *readySource) drop() {
	if r.buf == nil {
		return
	}
	r.s.b.cfg.Pool.kept.release(r.buf.size())
	r.buf.give()
	r.buf = nil
}
