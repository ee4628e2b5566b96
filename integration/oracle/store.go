package oracle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Report is what a store has to say about one connection that asked for it.
type Report struct {
	ID     string  `json:"id"`
	Upload Outcome `json:"upload"` // the job's content, as the store read it
	Sent   int64   `json:"sent"`
}

// Store serves scripts. Its fields must not change while it serves.
type Store struct {
	// Reports is told about each connection whose script has an ID, after its end. It may be called concurrently.
	Reports func(Report)
}

// scriptTimeout bounds the wait for a connection's script.
const scriptTimeout = 30 * time.Second

// Serve accepts connections until the context ends or the listener fails. When it returns, all its connections are
// closed. It closes the listener.
func (s *Store) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	defer conns.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("oracle: accept: %w", err)
		}
		conns.Go(func() { s.serve(ctx, conn.(*net.TCPConn)) })
	}
}

// serve obeys one connection's script.
func (s *Store) serve(ctx context.Context, tcp *net.TCPConn) {
	conn := &socket{Conn: tcp}
	defer func() { _ = conn.Close() }()
	_ = conn.SetLinger(0)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetReadDeadline(time.Now().Add(scriptTimeout))
	script, err := ReadScript(conn)
	if err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	report := Report{ID: script.ID}
	if script.ID != "" && s.Reports != nil {
		defer func() { s.Reports(report) }()
	}
	var reading sync.WaitGroup
	read := func() { report.Upload = Drain(conn, script.UploadSeed, nil) }
	switch {
	case script.Deaf:
	case script.ReadFirst:
		if read(); !report.Upload.Complete() {
			return
		}
	default:
		reading.Go(read)
	}
	report.Sent, err = script.send(ctx, conn)
	switch {
	case err != nil || script.End == EndReset:
		_ = conn.Close() // linger 0: a reset
	case script.End == EndFIN:
		err = conn.CloseWrite()
	case script.Deaf: // silent and deaf: the job's end cannot be seen
		<-ctx.Done()
	}
	reading.Wait()
	if err == nil && script.End == EndFIN && report.Upload.Complete() {
		_ = conn.SetLinger(-1)
	}
}

// send sends the script's content as slowly as it says.
func (s Script) send(ctx context.Context, w io.Writer) (int64, error) {
	content := NewReader(s.Seed, s.Send)
	if s.Pause == 0 && s.Chunk == 0 {
		return content.WriteTo(w)
	}
	chunk := make([]byte, max(s.Chunk, 1))
	if s.Chunk == 0 {
		chunk = make([]byte, block)
	}
	pause := time.NewTicker(max(s.Pause, time.Nanosecond))
	defer pause.Stop()
	var sent int64
	for {
		n, err := content.Read(chunk)
		if errors.Is(err, io.EOF) {
			return sent, nil
		}
		n, err = w.Write(chunk[:n])
		sent += int64(n)
		if err != nil {
			return sent, err
		}
		if s.Pause > 0 {
			select {
			case <-pause.C:
			case <-ctx.Done():
				return sent, ctx.Err()
			}
		}
	}
}
