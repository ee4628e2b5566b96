package oracle

import (
	"fmt"
	"io"
	"sync"
)

// Job plays a job's part on one connection whose other end is a store.
type Job struct {
	Script Script

	// Upload is how many bytes of the content named Script.UploadSeed the job sends, and End what it does then:
	// half-close, reset (once the store's content has arrived: a reset may overtake what was sent before it, even the
	// script), or (the zero value, and EndSilent) nothing until the store's content has ended.
	Upload int64
	End    End
	// UploadLast: the job sends nothing before it has read the store's content to its end.
	UploadLast bool
	// StopAfter, if not 0, is after how many bytes read the job resets the connection.
	StopAfter int64
	// Observe, if set, is told how many bytes have been read so far, ObserveUpload how many have been written.
	Observe, ObserveUpload func(n int64)
}

// Run plays the part and returns how the store's content ended. An error means that the job could not even do its
// own part; it matters only where the script lets the job finish. The connection is closed, by a reset unless both
// directions ended well.
func (j Job) Run(raw Conn) (Outcome, error) {
	conn := &socket{Conn: raw}
	defer func() { _ = conn.Close() }()
	_ = conn.SetLinger(0)
	if _, err := conn.Write(j.Script.Encode()); err != nil {
		return failed(0, err), fmt.Errorf("oracle: send script: %w", err)
	}
	var (
		outcome Outcome
		err     error
		arrived = make(chan struct{}) // closed once the store's content has arrived or ended
		once    sync.Once
	)
	arrive := func() { once.Do(func() { close(arrived) }) }
	if j.Script.Send == 0 {
		arrive()
	}
	observe := func(n int64) {
		if n >= j.Script.Send {
			arrive()
		}
		if j.StopAfter > 0 && n >= j.StopAfter {
			_ = conn.Close()
		}
		if j.Observe != nil {
			j.Observe(n)
		}
	}
	if j.UploadLast {
		outcome = Drain(conn, j.Script.Seed, observe)
		arrive()
		err = j.upload(conn, arrived)
		if err == nil {
			// The connection is closed only after the store closed it too: a reset must not overtake the content.
			_, err = io.Copy(io.Discard, conn)
		}
	} else {
		var uploading sync.WaitGroup
		uploading.Go(func() { err = j.upload(conn, arrived) })
		outcome = Drain(conn, j.Script.Seed, observe)
		arrive()
		if !outcome.Complete() {
			_ = conn.Close() // an upload to a store that stopped reading would not end
		}
		uploading.Wait()
	}
	if outcome.Complete() && err == nil && j.End != EndReset {
		_ = conn.SetLinger(-1)
	}
	return outcome, err
}

func (j Job) upload(conn *socket, arrived <-chan struct{}) error {
	if _, err := NewReader(j.Script.UploadSeed, j.Upload).WriteTo(&progress{w: conn, observe: j.ObserveUpload}); err != nil {
		return fmt.Errorf("oracle: upload: %w", err)
	}
	switch j.End {
	case EndFIN:
		if err := conn.CloseWrite(); err != nil {
			return fmt.Errorf("oracle: upload: %w", err)
		}
	case EndReset:
		<-arrived
		_ = conn.Close()
	}
	return nil
}

// progress is a writer that tells how far it is.
type progress struct {
	w       io.Writer
	n       int64
	observe func(int64)
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.n += int64(n)
	if p.observe != nil {
		p.observe(p.n)
	}
	return n, err
}
