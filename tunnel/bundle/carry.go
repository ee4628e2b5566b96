package bundle

import (
	"errors"
	"hash/crc32"
	"io"
	"net"
)

// Carry moves bytes between sock and the stream until both directions are over,
// closes sock and reports. prefix is what was read from sock before. sock must
// have had SO_LINGER 0 from birth: any end other than a good one in both
// directions resets it.
func (s *Stream) Carry(sock Socket, prefix []byte) Report {
	b := s.b
	b.mu.Lock()
	s.attachLocked(sock)
	b.mu.Unlock()
	s.pump(sock, prefix)
	<-s.done
	if s.endedWell() {
		_ = sock.SetLinger(-1)
	}
	_ = sock.Close()
	s.writers.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.reportLocked()
}

func (s *Stream) endedWell() bool {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.reason == CodeOK
}

// Err is nil for a stream that ended well, else a *ResetError.
func (r Report) Err() error {
	if r.Reason == CodeOK {
		return nil
	}
	return &ResetError{Reason: r.Reason, Remote: r.Remote}
}

// pump reads the socket straight into chunks until it ends or the stream does.
// The size of a read follows what the socket gives.
func (s *Stream) pump(sock Socket, prefix []byte) {
	var crc uint32
	source := newSource(sock, s)
	size := classSizes[1]
	for {
		room := s.awaitRoom()
		if room == 0 {
			return
		}
		var buf *buffer
		var n int
		var err error
		if len(prefix) > 0 {
			buf, n = s.chunkOf(prefix[:min(len(prefix), room, size)])
			prefix = prefix[n:]
		} else {
			buf, n, err = source.read(min(room, size))
		}
		if n > 0 {
			crc = crc32.Update(crc, castagnoli, buf.data()[:n])
			s.b.cfg.Metrics.bytesRead.Add(float64(n))
			size = nextSize(size, n)
			if !s.push(s.fit(buf, n), n) {
				return
			}
		}
		if n == 0 && err == nil {
			return // the stream is over
		}
		if errors.Is(err, io.EOF) && !s.resetUnseen(sock) {
			s.finish(crc)
			return
		}
		if err != nil {
			s.Reset(s.b.socketReset())
			return
		}
	}
}

// resetUnseen tells whether a socket that came to a clean end was reset. The
// kernel reports a reset once: where a write takes the error, the next read
// finds EOF. A connection that the kernel has given up before this side began
// to end its own direction was reset.
func (s *Stream) resetUnseen(sock Socket) bool {
	if !gaveUp(sock) {
		return false
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return !s.recv.ending
}

// nextSize is the size of the next read: larger while reads come back full.
func nextSize(size, n int) int {
	class := classFor(size)
	switch {
	case n == size && class < len(classSizes)-1:
		class++
	case n < size/8 && class > 1:
		class--
	}
	return classSizes[class]
}

// chunkOf copies p into a buffer of its own; nil and 0 when the stream is over.
func (s *Stream) chunkOf(p []byte) (*buffer, int) {
	buf := s.reserve(len(p))
	if buf == nil {
		return nil, 0
	}
	return buf, copy(buf.data(), p)
}

// reserve waits for the memory of a chunk; nil when the stream is over.
func (s *Stream) reserve(n int) *buffer {
	size := int64(classSizes[classFor(n)])
	if !s.b.cfg.Pool.kept.reserve(s.done, size) {
		return nil
	}
	return takeBuffer(n)
}

// fit moves n bytes into a smaller buffer where they would pin a large one.
func (s *Stream) fit(buf *buffer, n int) *buffer {
	if buf.class-classFor(n) < 2 {
		return buf
	}
	small := takeBuffer(n)
	copy(small.data(), buf.data()[:n])
	s.b.cfg.Pool.kept.release(buf.size() - small.size())
	buf.give()
	return small
}

// source reads a socket into chunks. Where the platform allows it, a source
// that waits for bytes holds no buffer.
type source interface {
	// read waits for bytes and reads at most max of them. It returns no
	// buffer and no error when the stream is over.
	read(max int) (*buffer, int, error)
}

// plainSource holds a small buffer while it waits.
type plainSource struct {
	conn net.Conn
	s    *Stream
}

func (p plainSource) read(max int) (*buffer, int, error) {
	buf := p.s.reserve(max)
	if buf == nil {
		return nil, 0, nil
	}
	n, err := p.conn.Read(buf.data()[:max])
	if n == 0 {
		p.s.b.cfg.Pool.kept.release(buf.size())
		buf.give()
		if err == nil {
			err = io.ErrNoProgress
		}
		return nil, 0, err
	}
	return buf, n, err
}
