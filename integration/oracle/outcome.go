package oracle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Kind names the way in which a stream ended.
type Kind string

// The ways in which a stream can end. Only KindComplete claims that the object is whole.
const (
	KindComplete Kind = "complete"
	KindReset    Kind = "reset"   // the connection was reset or aborted
	KindTimeout  Kind = "timeout" // the reader's deadline passed
	KindCorrupt  Kind = "corrupt" // a wrong byte
	KindError    Kind = "error"   // any other error
)

// Outcome is how a stream ended, as its reader saw it.
type Outcome struct {
	Kind   Kind   `json:"kind"`
	Bytes  int64  `json:"bytes"`            // delivered, and equal to the content's
	Digest string `json:"digest,omitempty"` // hexadecimal SHA-256 of them; only of a complete stream
	Error  string `json:"error,omitempty"`
}

// Complete tells whether the reader was told that the stream ended as its sender meant it to.
func (o Outcome) Complete() bool { return o.Kind == KindComplete }

func (o Outcome) String() string {
	if o.Complete() {
		return fmt.Sprintf("complete after %d bytes", o.Bytes)
	}
	return fmt.Sprintf("%s after %d bytes: %s", o.Kind, o.Bytes, o.Error)
}

// Honest returns an error if the outcome is a lie about an object of n bytes: a wrong byte, more bytes than it has,
// or a complete stream of another length or digest. An error before the end is honest.
func (o Outcome) Honest(seed uint64, n int64) error {
	switch {
	case o.Kind == KindCorrupt:
		return errors.New(o.Error)
	case o.Bytes > n:
		return fmt.Errorf("oracle: %d bytes of an object of %d", o.Bytes, n)
	case o.Complete() && o.Bytes != n:
		return fmt.Errorf("oracle: clean end after %d of %d bytes", o.Bytes, n)
	case o.Complete() && o.Digest != Digest(seed, n):
		return fmt.Errorf("oracle: clean end with digest %s", o.Digest)
	}
	return nil
}

// Drain reads r to its end and checks every byte against the content named seed. Observe, if not nil, is told the
// number of bytes so far after each read.
func Drain(r io.Reader, seed uint64, observe func(n int64)) Outcome {
	v := NewVerifier(seed)
	digest := sha256.New()
	buf := make([]byte, block)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, bad := v.Write(buf[:n]); bad != nil {
				return failed(v.Len(), bad)
			}
			digest.Write(buf[:n])
			if observe != nil {
				observe(v.Len())
			}
		}
		if errors.Is(err, io.EOF) {
			return Outcome{Kind: KindComplete, Bytes: v.Len(), Digest: hex.EncodeToString(digest.Sum(nil))}
		}
		if err != nil {
			return failed(v.Len(), err)
		}
	}
}

// failed classifies the error that ended a stream.
func failed(n int64, err error) Outcome {
	o := Outcome{Kind: KindError, Bytes: n, Error: err.Error()}
	var corrupt *CorruptError
	switch {
	case errors.As(err, &corrupt):
		o.Kind = KindCorrupt
	case errors.Is(err, os.ErrDeadlineExceeded):
		o.Kind = KindTimeout
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		o.Kind = KindReset
	}
	return o
}
