package oracle

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// Conn is a job's or a store's connection; *net.TCPConn is one. With linger 0, Close resets it.
type Conn interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// socket reads a connection without being fooled by the kernel, which reports a reset only once: where a write
// takes the error, the next read finds a clean end (seen in half of all resets that met a writer). A connection that
// is closed altogether while this side has not ended its own direction was reset.
type socket struct {
	Conn
	ended atomic.Bool // this side's direction was ended
}

// Read implements io.Reader.
func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	tcp, ok := s.Conn.(*net.TCPConn)
	if ok && errors.Is(err, io.EOF) && isClosed(tcp) && !s.ended.Load() { // in this order: ending it may close it
		err = &net.OpError{Op: "read", Net: "tcp", Addr: s.RemoteAddr(), Err: syscall.ECONNRESET}
	}
	return n, err
}

// CloseWrite ends this side's direction.
func (s *socket) CloseWrite() error {
	s.ended.Store(true)
	err := s.Conn.CloseWrite()
	if err != nil {
		s.ended.Store(false)
	}
	return err
}
