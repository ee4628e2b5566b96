package client

import (
	"fmt"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// maxStreamsShown bounds how many ended streams a summary lists.
const maxStreamsShown = 100

// Summary is what a run did.
type Summary struct {
	Streams      int     `json:"streams"` // that were opened
	Failed       int     `json:"failed"`  // that were not opened, or ended badly
	BytesRead    int64   `json:"bytes_read"`
	BytesWritten int64   `json:"bytes_written"`
	Seconds      float64 `json:"seconds"`
	// Last are the streams that ended last, oldest first; at most 100.
	Last []StreamSummary `json:"last"`
}

// StreamSummary is one stream that ended. Read is from the store.
type StreamSummary struct {
	UUID         string  `json:"uuid"`
	Target       string  `json:"target"`
	Seconds      float64 `json:"seconds"`
	BytesRead    int64   `json:"bytes_read"`
	BytesWritten int64   `json:"bytes_written"`
	ReadCRC32C   string  `json:"read_crc32c"`
	WriteCRC32C  string  `json:"written_crc32c"`
	Resumes      int     `json:"resumes"`
	Reason       string  `json:"reason"` // ok, or why it was reset
}

// tally adds up a summary.
type tally struct {
	start time.Time

	mu  sync.Mutex
	sum Summary // guarded by mu
}

func (t *tally) failed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Failed++
}

func (t *tally) ended(target Target, r bundle.Report) StreamSummary {
	s := StreamSummary{
		UUID:         fmt.Sprintf("%x-%x-%x-%x-%x", r.UUID[:4], r.UUID[4:6], r.UUID[6:8], r.UUID[8:10], r.UUID[10:]),
		Target:       target.String(),
		Seconds:      r.End.Sub(r.Start).Seconds(),
		BytesRead:    r.Received,
		BytesWritten: r.Sent,
		ReadCRC32C:   fmt.Sprintf("%08x", r.ReceivedCRC),
		WriteCRC32C:  fmt.Sprintf("%08x", r.SentCRC),
		Resumes:      r.Resumes,
		Reason:       r.Reason.String(),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Streams++
	t.sum.BytesRead += r.Received
	t.sum.BytesWritten += r.Sent
	if r.Reason != bundle.CodeOK {
		t.sum.Failed++
	}
	if len(t.sum.Last) == maxStreamsShown {
		t.sum.Last = append(t.sum.Last[:0], t.sum.Last[1:]...)
	}
	t.sum.Last = append(t.sum.Last, s)
	return s
}

func (t *tally) summary() Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sum
	s.Last = append([]StreamSummary{}, t.sum.Last...)
	s.Seconds = time.Since(t.start).Seconds()
	return s
}
