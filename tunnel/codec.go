package tunnel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// maxMessage bounds a control message, maxJoin a lane's preamble, in bytes.
const (
	maxMessage = 64 << 10
	maxJoin    = 4 << 10
)

// envelope is a control message: four bytes of length, then this as JSON. An
// answer has the id of its question in Re.
type envelope struct {
	Type string          `json:"type"`
	ID   uint64          `json:"id,omitempty"`
	Re   uint64          `json:"re,omitempty"`
	Body json.RawMessage `json:"body,omitempty"`
}

// encodeMessage makes the bytes of a message.
func encodeMessage(e envelope, body any) ([]byte, error) {
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("tunnel: encode %s: %w", e.Type, err)
		}
		e.Body = raw
	}
	return encodeFrame(e, maxMessage)
}

// encodeFrame makes length and JSON.
func encodeFrame(v any, limit int) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("tunnel: encode: %w", err)
	}
	if len(raw) > limit {
		return nil, fmt.Errorf("tunnel: encode: %d bytes, at most %d", len(raw), limit)
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(raw)), uint32(len(raw))), raw...), nil
}

// readFrame reads length and JSON into v, at most limit bytes.
func readFrame(r io.Reader, limit int, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || int64(n) > int64(limit) {
		return Errorf("protocol-violation", "relay", "", "a message of %d bytes, at most %d", n, limit)
	}
	raw, err := io.ReadAll(io.LimitReader(r, int64(n))) // grows with what comes, not with what was said
	if err == nil && len(raw) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return Errorf("protocol-violation", "relay", "", "a message that is not JSON: %v", err)
	}
	return nil
}
