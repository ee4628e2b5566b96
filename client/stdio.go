package client

import (
	"context"
	"errors"
	"io"
	"sync"
)

// stdioBuffer is how much is copied at once, in bytes.
const stdioBuffer = 256 << 10

// Stdio carries a Conn between a reader and a writer, as netcat does: the end of
// in ends the direction to the store, the store's end closes out. It returns nil
// only if both directions ended well and out took every byte; everything else,
// ctx's end too, resets the stream. After a bad end a Read of in may still be
// waiting when Stdio returns.
func Stdio(ctx context.Context, conn *Conn, in io.Reader, out io.WriteCloser) error {
	defer context.AfterFunc(ctx, conn.Reset)()
	var first errorOnce
	fail := func(err error) {
		first.set(err)
		conn.Reset()
	}
	go sendAll(conn, in, fail)
	switch _, err := io.CopyBuffer(struct{ io.Writer }{out}, taking{conn, &first}, make([]byte, stdioBuffer)); {
	case err != nil:
		fail(outError(err))
	default:
		if err := out.Close(); err != nil {
			fail(outError(err))
		}
	}
	<-conn.Done()
	switch err := first.get(); {
	case ctx.Err() != nil:
		return &Error{code: "interrupted", hop: "config", message: "interrupted before both directions had ended", err: ctx.Err(), advice: "start again"}
	case err != nil:
		return err
	}
	return conn.Report().Err()
}

func outError(err error) error {
	return &Error{code: "output-failed", hop: "config", message: "the output takes no more", err: err, advice: "see what reads it, or whether the disk is full"}
}

// sendAll sends in to its end.
func sendAll(conn *Conn, in io.Reader, fail func(error)) {
	buf := make([]byte, stdioBuffer)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return // the stream is over, and says why
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = conn.CloseWrite()
			return
		case err != nil:
			fail(&Error{code: "input-failed", hop: "config", message: "the input cannot be read", err: err, advice: "see what writes it"})
			return
		}
	}
}

// taking reads a Conn and notes its own error, so that it is told from the
// writer's.
type taking struct {
	conn  *Conn
	first *errorOnce
}

func (t taking) Read(p []byte) (int, error) {
	n, err := t.conn.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		t.first.set(err)
	}
	return n, err
}

// errorOnce keeps the first error.
type errorOnce struct {
	mu  sync.Mutex
	err error
}

func (e *errorOnce) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
}

func (e *errorOnce) get() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}
