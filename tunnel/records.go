package tunnel

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// readAhead is how much is read at once once a peer is believed, in bytes.
	readAhead = 256 << 10
	// keptOut is the largest buffer that is kept for the next flush, in bytes.
	keptOut = 1 << 20
)

// recordConn lies under crypto/tls, which reads and writes one record of 16 KiB
// at a time: it reads ahead, and writes records together when flushed, from
// gather on. Before that it only passes on, and needs no memory. It counts the
// records of both directions.
type recordConn struct {
	net.Conn
	wear *wear
	got  recordCount // used by the reader

	in        *bufio.Reader // nil until gather
	gathering bool

	mu     sync.Mutex // crypto/tls also writes when it reads: alerts, key updates
	out    []byte
	passed int // of out, with the kernel
	sent   recordCount
	prompt *bundle.Prompt // of Conn, where it can write without waiting
}

func newRecordConn(conn net.Conn) *recordConn { return &recordConn{Conn: conn, wear: newWear()} }

// gather is called once, between the handshake and what follows, with how much
// to read at once.
func (c *recordConn) gather(ahead int) {
	c.in, c.gathering = bufio.NewReaderSize(c.Conn, ahead), true
	below := c.Conn
	if peeked, ok := below.(*Peeked); ok { // it only passes on what is written
		below = peeked.Conn
	}
	c.prompt = bundle.NewPrompt(below)
}

// NetConn is the connection under it.
func (c *recordConn) NetConn() net.Conn { return c.Conn }

func (c *recordConn) Read(p []byte) (n int, err error) {
	if c.in == nil {
		n, err = c.Conn.Read(p)
	} else {
		n, err = c.in.Read(p)
	}
	c.got.pass(p[:n], c.wear)
	return n, err
}

func (c *recordConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent.pass(p, c.wear)
	if !c.gathering {
		return c.Conn.Write(p)
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

func (c *recordConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out[c.passed:])
	c.flushed()
	return err
}

// flushNow is flush as far as the kernel takes records at once; it tells whether
// some are left.
func (c *recordConn) flushNow() (left bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.prompt == nil || len(c.out) == 0 {
		return len(c.out) > 0, nil
	}
	n, err := c.prompt.WriteNow(c.out[c.passed:])
	if c.passed += n; c.passed < len(c.out) && err == nil {
		return true, nil
	}
	c.flushed()
	return false, err
}

func (c *recordConn) flushed() {
	c.out, c.passed = c.out[:0], 0
	if cap(c.out) > keptOut {
		c.out = nil
	}
}

// frameConn lies above crypto/tls and under yamux, which writes a frame's header
// and its body apart: it flushes after whole frames.
type frameConn struct {
	*tls.Conn
	records *recordConn

	mu   sync.Mutex
	body uint32 // bytes of the frame's body that are to come
}

const (
	yamuxHeader   = 12
	yamuxTypeData = 0
)

func (c *frameConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Conn.Write(p)
	if err != nil {
		return n, err
	}
	switch {
	case c.body > 0:
		c.body -= min(c.body, uint32(len(p)))
	case len(p) == yamuxHeader && p[1] == yamuxTypeData:
		c.body = binary.BigEndian.Uint32(p[8:])
	}
	if c.body > 0 {
		return n, nil
	}
	return n, c.records.flush()
}

// Close says goodbye, for which a peer that takes nothing has a second, and
// closes.
func (c *frameConn) Close() error {
	_ = c.records.SetWriteDeadline(time.Now().Add(time.Second))
	err := c.Conn.CloseWrite()
	_ = c.records.flush()
	return errors.Join(err, c.records.Conn.Close())
}
