package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// greeting is what the store says first, as many servers do.
const greeting = 'g'

// What a load asks of the store, as the first byte of a connection.
const (
	askEcho = 'e' // every byte comes back, this one too
	askDown = 'd' // and 8 bytes: nanoseconds for which to send blocks
	askUp   = 'u' // blocks follow; the store answers the last one with one byte

	// And 8 bytes: nanoseconds. The receiver counts for so long and then breaks the connection off.
	askFlowDown = 'D' // the store sends as long as it can
	askFlowUp   = 'U' // the store receives, and answers with its tally as JSON and a line end
)

// A block is the unit of bulk content. Its first byte says whether it is the last one, so that the end is known
// without half-close, which not every path has.
const block = 1 << 20

const (
	moreBlocks = 0
	lastBlock  = 1
)

// sendBlocks sends blocks for a time.
func sendBlocks(w io.Writer, d time.Duration) error {
	buf := make([]byte, block)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	buf[0] = moreBlocks
	for end := time.Now().Add(d); ; {
		if time.Now().After(end) {
			buf[0] = lastBlock
		}
		if _, err := w.Write(buf); err != nil {
			return fmt.Errorf("bench: send: %w", err)
		}
		if buf[0] == lastBlock {
			return nil
		}
	}
}

// readBlocks reads blocks up to the last one and returns their bytes.
func readBlocks(r io.Reader) (int64, error) {
	buf := make([]byte, block)
	for n := int64(0); ; {
		if _, err := io.ReadFull(r, buf); err != nil {
			return n, fmt.Errorf("bench: receive: %w", err)
		}
		n += block
		if buf[0] == lastBlock {
			return n, nil
		}
	}
}

// serveStore answers one connection.
func serveStore(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	ask := [1]byte{greeting}
	if _, err := conn.Write(ask[:]); err != nil {
		return
	}
	if _, err := io.ReadFull(conn, ask[:]); err != nil {
		return
	}
	switch ask[0] {
	case askEcho:
		for {
			if _, err := conn.Write(ask[:]); err != nil {
				return
			}
			if _, err := io.ReadFull(conn, ask[:]); err != nil {
				return
			}
		}
	case askDown:
		var d [8]byte
		if _, err := io.ReadFull(conn, d[:]); err != nil {
			return
		}
		if sendBlocks(conn, time.Duration(binary.BigEndian.Uint64(d[:]))) == nil {
			_, _ = io.Copy(io.Discard, conn) // until the load has everything and closes
		}
	case askUp:
		if _, err := readBlocks(conn); err == nil {
			_, _ = conn.Write(ask[:])
			_, _ = io.Copy(io.Discard, conn)
		}
	case askFlowDown, askFlowUp:
		serveFlow(conn, ask[0])
	}
}
