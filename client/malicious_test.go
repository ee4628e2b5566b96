package client

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// spoiled is a lane as a malicious relay moves it: now and then it flips, loses, repeats, replays or adds bytes, or ends
// the lane. It writes what the node writes, and reads what the client wrote.
type spoiled struct {
	net.Conn
	deeds *atomic.Int64

	mu   sync.Mutex // guards what follows
	rand *rand.Rand
	old  []byte
}

// deedEvery is the mean number of bytes between two deeds.
const deedEvery = 500 << 10

// spoil is what becomes of bytes, and whether the lane ends after them.
func (s *spoiled) spoil(b []byte) (out []byte, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b) == 0 || s.rand.IntN(deedEvery) >= len(b) {
		s.old = bytes.Clone(b)
		return b, false
	}
	s.deeds.Add(1)
	from := s.rand.IntN(len(b))
	to := from + 1 + s.rand.IntN(len(b)-from)
	switch s.rand.IntN(6) {
	case 0:
		out = bytes.Clone(b)
		out[from] ^= 1 << s.rand.IntN(8)
		return out, false
	case 1:
		return append(bytes.Clone(b[:from]), b[to:]...), false
	case 2:
		return append(bytes.Clone(b[:to]), b[from:]...), false
	case 3:
		return append(bytes.Clone(b), s.old...), false
	case 4:
		return append(bytes.Clone(b[:from]), bytes.Repeat([]byte{0x17}, to-from)...), false
	}
	return b[:from], true
}

func (s *spoiled) Write(b []byte) (int, error) {
	out, over := s.spoil(b)
	if _, err := s.Conn.Write(out); err != nil {
		return 0, err
	}
	if over {
		_ = s.Conn.Close()
	}
	return len(b), nil
}

// Read gives what it spoiled at once or not at all: more than fits is lost, too.
func (s *spoiled) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	out, over := s.spoil(b[:n])
	if over {
		err = io.EOF
	}
	return copy(b, out), err
}

// TestMaliciousSplice: the relay spoils the session lanes that it joins, which it alone can. Streams go on over the next
// ones, and what does not is an error.
func TestMaliciousSplice(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("EBBGATE_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("again with EBBGATE_SEED=%d", seed)
	r := startRelay(t, echoStore(t))
	var deeds, lanes atomic.Int64
	r.splice = func(c net.Conn) net.Conn {
		return &spoiled{Conn: c, deeds: &deeds, rand: rand.New(rand.NewPCG(seed, uint64(lanes.Add(1))))}
	}
	tc := startClient(t, r, func(c *Config) { c.ResumeGrace = time.Minute })
	<-tc.ready
	addr := tc.forward()
	whole := 0
	for i := 0; i < 3 || deeds.Load() < 10; i++ {
		body := make([]byte, 1<<20)
		content := rand.NewChaCha8([32]byte{byte(seed), byte(i)})
		_, _ = content.Read(body)
		conn := dialTCP(t, addr)
		_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
		var writing sync.WaitGroup
		writing.Go(func() {
			if _, err := conn.Write(body); err == nil {
				_ = conn.CloseWrite()
			}
		})
		got, err := io.ReadAll(conn)
		_ = conn.Close()
		writing.Wait()
		switch {
		case err == nil && bytes.Equal(got, body):
			whole++
		case err == nil:
			t.Fatalf("stream %d ended well after %d of %d bytes, or others", i, len(got), len(body))
		case !bytes.HasPrefix(body, got):
			t.Fatalf("stream %d gave other bytes before its error %v", i, err)
		case len(got) == 0: // it was perhaps never opened
		default:
			t.Errorf("stream %d did not outlive its lanes: %v", i, err)
		}
	}
	t.Logf("%d streams whole, %d deeds on %d lanes", whole, deeds.Load(), lanes.Load())
}
