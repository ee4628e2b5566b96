package oracle

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// Content is a sequence of 64-bit words: splitmix64 of seed + index. The mixing can be undone, which lets
// locate find out where a wrong byte belongs.
const (
	step  = 0x9E3779B97F4A7C15
	mul1  = 0xBF58476D1CE4E5B9
	mul2  = 0x94D049BB133111EB
	block = 256 << 10
)

func word(seed uint64, index int64) uint64 {
	z := seed + uint64(index)*step
	z = (z ^ z>>30) * mul1
	z = (z ^ z>>27) * mul2
	return z ^ z>>31
}

// inverse returns the multiplicative inverse of an odd number modulo 2^64 (Newton's iteration).
func inverse(a uint64) uint64 {
	x := a
	for range 5 {
		x *= 2 - a*x
	}
	return x
}

var (
	unmul1 = inverse(mul1)
	unmul2 = inverse(mul2)
	unstep = inverse(step)
)

// index undoes word: the index whose word under seed is w. Any w has one; only small ones mean anything.
func index(seed, w uint64) int64 {
	z := w ^ w>>31 ^ w>>62
	z *= unmul2
	z = z ^ z>>27 ^ z>>54
	z *= unmul1
	z = z ^ z>>30 ^ z>>60
	return int64((z - seed) * unstep)
}

// Fill writes into p the content's bytes from offset on. Safe for concurrent use.
//
// It touches nothing but p; the race detector would make it ten times slower.
//
//go:norace
func Fill(p []byte, seed uint64, offset int64) {
	i := offset >> 3
	if skip := int(offset & 7); skip != 0 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], word(seed, i))
		p = p[copy(p, w[skip:]):]
		i++
	}
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, word(seed, i))
		i++
	}
	if len(p) > 0 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], word(seed, i))
		copy(p, w[:])
	}
}

// Digest returns the hexadecimal SHA-256 of the content's first n bytes.
func Digest(seed uint64, n int64) string {
	h := sha256.New()
	_, _ = io.Copy(h, NewReader(seed, n))
	return hex.EncodeToString(h.Sum(nil))
}

// Reader reads the first bytes of a content. It also knows how to copy itself in large blocks.
type Reader struct {
	seed      uint64
	offset, n int64
}

// NewReader returns a reader of the content's first n bytes.
func NewReader(seed uint64, n int64) *Reader { return &Reader{seed: seed, n: n} }

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.offset >= r.n {
		return 0, io.EOF
	}
	if left := r.n - r.offset; int64(len(p)) > left {
		p = p[:left]
	}
	Fill(p, r.seed, r.offset)
	r.offset += int64(len(p))
	return len(p), nil
}

// WriteTo implements io.WriterTo.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, block)
	var done int64
	for {
		n, err := r.Read(buf)
		if err == io.EOF {
			return done, nil
		}
		m, err := w.Write(buf[:n])
		done += int64(m)
		if err != nil {
			return done, err
		}
	}
}

// CorruptError says that a stream delivered a byte that the content does not have there.
type CorruptError struct {
	Offset int64 // of the first wrong byte
	Origin int64 // the offset in the same content at which the bytes found belong; -1: nowhere
}

func (e *CorruptError) Error() string {
	switch {
	case e.Origin < 0:
		return fmt.Sprintf("oracle: wrong byte at offset %d, not of this content", e.Offset)
	case e.Origin < e.Offset:
		return fmt.Sprintf("oracle: wrong byte at offset %d: the bytes of offset %d, again", e.Offset, e.Origin)
	default:
		return fmt.Sprintf("oracle: wrong byte at offset %d: the bytes of offset %d, %d bytes are missing",
			e.Offset, e.Origin, e.Origin-e.Offset)
	}
}

// Verifier is a writer that accepts exactly one content. It is not safe for concurrent use.
type Verifier struct {
	seed uint64
	n    int64
	buf  []byte
	err  error
}

// NewVerifier returns a verifier of the content named seed, from its first byte on.
func NewVerifier(seed uint64) *Verifier { return &Verifier{seed: seed, buf: make([]byte, block)} }

// Len returns the number of bytes found right so far.
func (v *Verifier) Len() int64 { return v.n }

// Write implements io.Writer. Its error is a *CorruptError, and stays.
func (v *Verifier) Write(p []byte) (int, error) {
	done := 0
	for v.err == nil && done < len(p) {
		part := p[done:min(len(p), done+block)]
		want := v.buf[:len(part)]
		Fill(want, v.seed, v.n)
		if string(want) != string(part) {
			i := 0
			for want[i] == part[i] {
				i++
			}
			v.n += int64(i)
			done += i
			v.err = &CorruptError{Offset: v.n, Origin: locate(v.seed, part[i:])}
			break
		}
		v.n += int64(len(part))
		done += len(part)
	}
	return done, v.err
}

// locate finds the offset at which p begins in the content, or -1. It needs 16 bytes to be sure.
func locate(seed uint64, p []byte) int64 {
	const plausible = 1 << 45
	for k := range 8 {
		if len(p) < k+8 {
			break
		}
		at := index(seed, binary.LittleEndian.Uint64(p[k:]))
		if at < 0 || at > plausible || at*8 < int64(k) {
			continue
		}
		return at*8 - int64(k)
	}
	return -1
}
