package oracle

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// End is what a store does with its connection after the bytes that it was told to send.
type End string

// The ends that a store knows.
const (
	EndFIN    End = "fin"    // half-close: says that nothing more comes, and still reads
	EndReset  End = "reset"  // reset the connection at once, with bytes still in flight
	EndSilent End = "silent" // keep it open and say nothing until the job ends it
)

// Script is what a job tells a store to do with one connection. It is the first thing on the connection, and
// everything after it is content.
type Script struct {
	ID         string `json:"id"`                    // names the store's report on what it read; empty: none wanted
	Seed       uint64 `json:"seed,omitempty"`        // of the content that the store sends
	Send       int64  `json:"send,omitempty"`        // bytes to send
	End        End    `json:"end"`                   // what follows them
	UploadSeed uint64 `json:"upload_seed,omitempty"` // of the content that the job sends

	// ReadFirst: the store sends nothing before it has read the job's content to its end.
	ReadFirst bool `json:"read_first,omitempty"`
	// Deaf: the store never reads after the script.
	Deaf bool `json:"deaf,omitempty"`
	// Chunk and Pause slow the store down: at most Chunk bytes (default 256 KiB), then a pause.
	Chunk int           `json:"chunk,omitempty"`
	Pause time.Duration `json:"pause,omitempty"`
}

const maxScript = 4 << 10

// Encode returns the script as it goes on the wire: a 16-bit length and JSON.
func (s Script) Encode() []byte {
	body, err := json.Marshal(s)
	if err != nil || len(body) > maxScript {
		panic("oracle: BUG: script does not encode")
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(body))), body...)
}

// ReadScript reads a script and nothing after it.
func ReadScript(r io.Reader) (Script, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return Script{}, fmt.Errorf("oracle: read script: %w", err)
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > maxScript {
		return Script{}, fmt.Errorf("oracle: script of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return Script{}, fmt.Errorf("oracle: read script: %w", err)
	}
	var s Script
	if err := json.Unmarshal(body, &s); err != nil {
		return Script{}, fmt.Errorf("oracle: read script: %w", err)
	}
	return s, nil
}
