package bundle

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// hostile is the far end of an honest bundle: it makes lanes with the right
// HELLO, and then says in frames what a string of bytes tells it to.
type hostile struct {
	t       *testing.T
	role    byte // its own
	pool    *Pool
	lanes   []net.Conn
	ingress *Bundle // honest, where role is the node's
	node    *Node   // honest, where role is the ingress'
	bundle  [16]byte
	secret  [secretSize]byte
	running sync.WaitGroup
	spoiled map[uint64]bool // streams of which some bytes were not the slab's

	mu sync.Mutex
	// guarded by mu
	outsides []*outside // seed: the stream's number
}

// hostileNumbers are what streams, offsets and credits are taken from.
var hostileNumbers = []uint64{
	0, 1, 2, 3, 100, leastCredit, initialCredit - 1, initialCredit, initialCredit + 1, maxChunk, maxWindow,
	1<<16 + 1, 1<<32 - 1, 1 << 32, 1 << 63, 1<<64 - 1,
}

// hostileLengths are how many bytes a DATA carries.
var hostileLengths = []int{1, 2, 1000, 8<<10 + 1, 64 << 10, 64<<10 + 1, maxChunk}

// frame makes the frame that five bytes say.
func (h *hostile) frame(b []byte) []byte {
	stream := hostileNumbers[b[1]%4]
	if b[1] >= 0xf0 {
		stream = hostileNumbers[b[1]%16]
	}
	x, y := hostileNumbers[b[2]%16], hostileNumbers[b[3]%16]
	code := Code(b[2])
	switch b[0] % 18 {
	case 0, 1:
		return appendOpen(nil, stream, [16]byte{b[1], b[2]}, x, "g")
	case 2:
		return appendOpened(nil, stream, x)
	case 3:
		return appendRefused(nil, stream, code, "because")
	case 4, 5, 6:
		n := hostileLengths[int(b[3])%len(hostileLengths)]
		body := make([]byte, headroom+n)
		putDataHeader(body, stream, x, n)
		if x < 1<<20 {
			copy(body[headroom:], slab[int(x):min(int(x)+n, len(slab))])
		}
		if b[4]%4 == 3 {
			body[headroom+n-1] ^= 1
			h.spoiled[stream] = true
		}
		return body
	case 7:
		return appendAck(nil, stream, x, y)
	case 8, 9:
		final := x
		return appendFin(nil, stream, final, crc32.Checksum(slab[:min(final, uint64(len(slab)))], castagnoli)+uint32(b[4]/128))
	case 10:
		return appendFinAck(nil, stream)
	case 11:
		return appendRst(nil, stream, code, y)
	case 12:
		return appendNumber(nil, frameLack, x)
	case 13:
		return appendNumber(nil, framePing, x)
	case 14:
		return appendNumber(nil, framePong, y)
	case 15:
		return appendGoAway(nil, code%64)
	case 16:
		return []byte{b[1], b[2], b[3], b[4]} // any header, and nothing behind it
	}
	return appendHello(nil, hello{role: b[1] % 3, secret: &h.secret})
}

// say writes a frame on one of the lanes, or makes another lane of it, or waits.
func (h *hostile) say(b []byte) {
	switch {
	case b[4]%32 == 31 && len(h.lanes) < 70:
		h.join()
	case b[4]%32 == 30:
		time.Sleep(time.Duration(b[3]) * 100 * time.Millisecond)
	default:
		conn := h.lanes[int(b[4]/32)%len(h.lanes)]
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = conn.Write(h.frame(b))
	}
	synctest.Wait()
}

// join makes a lane with an honest HELLO.
func (h *hostile) join() {
	near, far := net.Pipe()
	exporter := make([]byte, 32)
	info := LaneInfo{Local: nodeID, Peer: relayID, Exporter: exporter}
	if h.role == roleIngress {
		h.running.Go(func() { _ = h.node.Serve(context.Background(), far, info) })
		said := hello{role: roleIngress, bundle: h.bundle, secret: &h.secret, mac: mac(h.secret, roleIngress, h.bundle, exporter)}
		_, _ = near.Write(appendHello(nil, said))
		_, _ = readHello(near, roleNode)
	} else {
		joined := make(chan struct{})
		h.running.Go(func() { _ = h.ingress.Join(context.Background(), far, info); close(joined) })
		asked, err := readHello(near, roleIngress)
		if err == nil && asked.secret != nil {
			h.bundle, h.secret = asked.bundle, *asked.secret
		}
		_, _ = near.Write(appendHello(nil, hello{role: roleNode, bundle: h.bundle, mac: mac(h.secret, roleNode, h.bundle, exporter)}))
		<-joined
	}
	h.lanes = append(h.lanes, near)
	h.running.Go(func() { _, _ = io.Copy(io.Discard, near) })
}

// outside makes the outside of an honest end's stream, which reads everything
// and says a little.
func (h *hostile) outside(number byte) *memSocket {
	o := newOutside(number)
	far, near := socketPair()
	o.sock = far
	h.mu.Lock()
	h.outsides = append(h.outsides, o)
	h.mu.Unlock()
	h.running.Go(o.read)
	h.running.Go(func() { o.send(1000); o.finish() })
	return near
}

// attack sets the honest end up and has it hear everything.
func (h *hostile) attack(script []byte) {
	cfg := Config{Pool: h.pool, ResumeGrace: 5 * time.Second}
	if h.role == roleIngress {
		h.bundle, h.secret = [16]byte{2}, [secretSize]byte{1}
		h.node = NewNode(cfg, func(_ context.Context, _ string, req Request) (Socket, error) {
			return h.outside(byte(hostileNumbers[req.UUID[0]%4])), nil
		})
		h.join()
	} else {
		h.ingress = NewIngress(cfg)
		h.join()
		for i := range byte(3) {
			h.running.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if s, err := h.ingress.Open(ctx, Request{UUID: [16]byte{i + 1}}); err == nil {
					s.Carry(h.outside(byte(s.id)), nil)
				}
			})
			synctest.Wait() // so they are numbered in this order
		}
	}
	for ; len(script) >= 5; script = script[5:] {
		h.say(script[:5])
	}
	for _, conn := range h.lanes {
		_ = conn.Close()
	}
	if h.ingress != nil {
		h.ingress.Close(CodeIngressStopped)
	} else {
		h.node.Close(CodeNodeStopped)
	}
	h.running.Wait()
}

// check holds what outsides read against what was true.
func (h *hostile) check() {
	if used := h.pool.Used(); used != 0 {
		h.t.Errorf("%d bytes of the pool are still in use", used)
	}
	for _, o := range h.outsides {
		if !errors.Is(o.end, io.EOF) || h.spoiled[uint64(o.seed)] && len(o.got) == 0 {
			continue
		}
		if string(o.got) != string(slab[:len(o.got)]) {
			h.t.Errorf("stream %d ended well with other bytes than its digest is of", o.seed)
		}
	}
}

// FuzzHostile has one end speak out of turn: frames in any order, beyond credit,
// for streams that never were, of sizes up to 2^64. The honest end does not
// panic or hang, gives its memory back, and no outside takes wrong bytes for
// whole ones. The first byte chooses the end that is hostile.
func FuzzHostile(f *testing.F) {
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) < 1 || len(script) > 5*64 {
			return
		}
		defer watchdog().Stop()
		synctest.Test(t, func(t *testing.T) {
			h := &hostile{t: t, role: roleIngress + script[0]%2, pool: NewPool(1 << 20), spoiled: make(map[uint64]bool)}
			h.attack(script[1:])
			h.check()
		})
	})
}

// TestResetIsNeverAGoodEnd: an RST or a REFUSED that says "ok" ends its lane, and nothing ends well by it.
func TestResetIsNeverAGoodEnd(t *testing.T) {
	for name, frames := range map[string][][]byte{
		"RST":       {appendOpened(nil, 1, 1), appendRst(nil, 1, CodeOK, 0)},
		"early RST": {appendRst(nil, 1, CodeOK, 0)},
		"REFUSED":   {appendRefused(nil, 1, CodeOK, "")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hostile{t: t, role: roleNode, pool: NewPool(1 << 20), spoiled: make(map[uint64]bool)}
				h.ingress = NewIngress(Config{Pool: h.pool, ResumeGrace: time.Minute})
				h.join()
				job, near := socketPair()
				over := make(chan error, 1)
				go func() {
					s, err := h.ingress.Open(context.Background(), Request{UUID: [16]byte{1}})
					if err == nil {
						err = s.Carry(near, nil).Err()
					}
					_ = near.Close()
					over <- err
				}()
				synctest.Wait()
				for _, frame := range frames {
					_, _ = h.lanes[0].Write(frame)
				}
				synctest.Wait()
				if n := h.ingress.Lanes(); n != 0 {
					t.Errorf("%d lanes are left", n)
				}
				h.ingress.Close(CodeIngressStopped)
				if err := <-over; err == nil {
					t.Error("it ended well")
				}
				if _, err := io.ReadAll(job); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the job read %v, want a reset", err)
				}
				h.running.Wait()
			})
		})
	}
}
