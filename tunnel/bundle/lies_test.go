package bundle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// liar stands between two honest ends and lies in frames: it changes, loses, repeats, swaps, replays and cuts what they
// say to each other.
type liar struct {
	mu sync.Mutex
	// guarded by mu
	rand *mrand.Rand
	lies int         // told so far
	most int         // to tell
	rare int         // of how many frames one is lied about
	kept [2][][]byte // frames to be replayed, by direction: what one end said comes back to none
}

// instead is what the liar says in the place of a frame.
func (l *liar) instead(way int, frame []byte) (said [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kept := l.kept[way]; len(kept) < 32 {
		l.kept[way] = append(kept, frame)
	} else if l.rand.IntN(4) == 0 {
		kept[l.rand.IntN(len(kept))] = frame
	}
	if l.lies >= l.most || l.rand.IntN(l.rare) != 0 {
		return [][]byte{frame}
	}
	for range 1 + l.rand.IntN(4) {
		if lie := l.lieLocked(way, frame); lie != nil {
			said = append(said, lie)
		}
		l.lies++
	}
	switch l.rand.IntN(8) {
	case 0: // the frame is lost
	case 1, 2:
		said = append(said, frame)
	default:
		said = append([][]byte{frame}, said...)
	}
	return said
}

// lieLocked makes one of a frame, or of one that was said before. OPEN and FIN stay with their stream: who says of one
// stream all that is true of another, its name or its bytes and CRC, tells a lie that holds.
func (l *liar) lieLocked(way int, frame []byte) []byte {
	r := l.rand
	if r.IntN(3) == 0 {
		frame = l.kept[way][r.IntN(len(l.kept[way]))]
	}
	lie := bytes.Clone(frame)
	number := func(at int) {
		if len(lie) >= at+8 {
			n := binary.BigEndian.Uint64(lie[at:])
			switch r.IntN(4) {
			case 0:
				n++
			case 1:
				n--
			case 2:
				n = uint64(r.IntN(6))
			default:
				n = hostileNumbers[r.IntN(len(hostileNumbers))]
			}
			binary.BigEndian.PutUint64(lie[at:], n)
		}
	}
	switch r.IntN(12) {
	case 0, 1: // as it was: repeated, or replayed
	case 2:
		lie[r.IntN(len(lie))] ^= 1 << r.IntN(8)
	case 3:
		lie[headerSize+r.IntN(len(lie)-headerSize)] ^= 1 << r.IntN(8)
	case 4:
		lie[len(lie)-1] ^= 1 << r.IntN(8)
	case 5:
		lie[0] = byte(r.IntN(16))
	case 6, 7:
		number(headerSize)
	case 8, 9:
		number(headerSize + 8)
	case 10: // shorter, with a header that fits
		lie = lie[:headerSize+r.IntN(len(lie)-headerSize)]
		n := len(lie) - headerSize
		lie[1], lie[2], lie[3] = byte(n>>16), byte(n>>8), byte(n)
	case 11: // cut off: what follows is taken for the rest of it
		lie = lie[:1+r.IntN(len(lie)-1)]
	}
	name := map[frameType]int{frameOpen: 24, frameFin: 8}[frameType(frame[0])]
	copy(lie[min(headerSize, len(lie)):], frame[headerSize:headerSize+name])
	return lie
}

// pass moves one direction of a lane, from HELLO on, until either side is over.
func (l *liar) pass(way int, from io.Reader, to io.Writer) {
	in := bufio.NewReader(from)
	for {
		head, err := in.Peek(headerSize)
		if err != nil {
			return
		}
		frame := make([]byte, headerSize+int(head[1])<<16+int(head[2])<<8+int(head[3]))
		if _, err := io.ReadFull(in, frame); err != nil {
			return
		}
		said := [][]byte{frame}
		if frameType(frame[0]) != frameHello {
			said = l.instead(way, frame)
		}
		for _, s := range said {
			if _, err := to.Write(s); err != nil {
				return
			}
		}
	}
}

// lyingLane adds a lane through the liar.
func (p *pairOf) lyingLane(l *liar, express bool) {
	ingress, toIngress := net.Pipe()
	node, toNode := net.Pipe()
	info := LaneInfo{Carrier: "pipe", Exporter: make([]byte, 32), Express: express}
	_, _ = rand.Read(info.Exporter)
	atNode, atIngress := info, info
	atIngress.Local, atIngress.Peer = relayID, nodeID
	atNode.Local, atNode.Peer = nodeID, relayID
	end := func() { _ = toIngress.Close(); _ = toNode.Close() }
	p.serving.Go(func() { l.pass(0, toIngress, toNode); end() })
	p.serving.Go(func() { l.pass(1, toNode, toIngress); end() })
	p.serving.Go(func() { _ = p.node.Serve(context.Background(), node, atNode) })
	_ = p.ingress.Join(context.Background(), ingress, atIngress)
}

// TestLies: whatever is said on lanes without TLS of their own, nobody panics, memory comes back, and no outside reads a
// good end after other bytes than were written. EBBGATE_LIES is how many frames are changed (1,000,000 for a release),
// EBBGATE_SEED where they begin.
func TestLies(t *testing.T) {
	const each = 400 // of one bundle
	lies, seed := 10_000, mrand.Uint64()
	for name, to := range map[string]func(uint64){"EBBGATE_LIES": func(n uint64) { lies = int(n) }, "EBBGATE_SEED": func(n uint64) { seed = n }} {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			to(n)
		}
	}
	said, whole, broken := 0, 0, 0
	for ; said < lies && !t.Failed(); seed++ {
		t.Run("", func(t *testing.T) {
			defer watchdog().Stop()
			synctest.Test(t, func(t *testing.T) {
				r := mrand.New(mrand.NewPCG(seed, 3))
				l := &liar{rand: r, most: each, rare: 1 << r.IntN(6)}
				w, b := lied(t, seed, l)
				said, whole, broken = said+l.lies, whole+w, broken+b
			})
		})
		if t.Failed() {
			t.Logf("again with EBBGATE_LIES=1 EBBGATE_SEED=%d", seed)
		}
	}
	t.Logf("%d frames were lies; %d directions ended well, %d did not", said, whole, broken)
}

// lied is one bundle with a liar in its lanes. It counts the directions that ended well and the others.
func lied(t *testing.T, seed uint64, l *liar) (whole, broken int) {
	r := mrand.New(mrand.NewPCG(seed, 4))
	pool := NewPool(4 << 20)
	var stores sync.Map // by UUID
	p := &pairOf{t: t}
	p.ingress = NewIngress(Config{Incarnation: 1, ResumeGrace: 20 * time.Second, Pool: pool})
	p.node = NewNode(Config{Incarnation: 2, ResumeGrace: 20 * time.Second, Pool: pool}, func(_ context.Context, _ string, req Request) (Socket, error) {
		near, far := socketPair()
		o := newOutside(2*req.UUID[0] + 1)
		o.sock = near
		if _, again := stores.LoadOrStore(req.UUID, o); again {
			return nil, &RefusedError{Reason: CodeInternal} // a lie: it was dialled
		}
		return far, nil
	})
	add := func(express bool) {
		if p.ingress.Err() == nil {
			p.lyingLane(l, express)
		}
	}
	add(true)
	var lanes sync.WaitGroup
	over := make(chan struct{})
	lanes.Go(func() { // lanes that died come again
		for i := 0; ; i++ {
			time.Sleep(100 * time.Millisecond)
			select {
			case <-over:
				return
			default:
			}
			for range 3 - p.ingress.Lanes() {
				add(i%2 == 0)
			}
		}
	})
	var streams sync.WaitGroup
	pairs := make(chan [2]*outside, 64)
	for number := range byte(1 + r.IntN(5)) {
		sizes := [2]int{1 + r.IntN(100<<10), 1 + r.IntN(100<<10)}
		streams.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			uuid := [16]byte{number, 1}
			s, err := p.ingress.Open(ctx, Request{UUID: uuid, Grant: "g"})
			if err != nil {
				return
			}
			near, far := socketPair()
			job := newOutside(2 * number)
			job.sock = near
			known, ok := stores.Load(uuid)
			if !ok { // the liar told the node other UUIDs, or the ingress of a dial that was not
				_ = near.Close()
				s.Carry(far, nil)
				return
			}
			store := known.(*outside)
			var both sync.WaitGroup
			for i, o := range []*outside{job, store} {
				both.Go(o.read)
				both.Go(func() {
					for n := sizes[i]; n > 0; n -= 4 << 10 {
						o.send(min(n, 4<<10))
					}
					o.finish()
				})
			}
			late := time.AfterFunc(40*time.Second, func() { s.Reset(CodeJobReset); _ = store.sock.Close() }) // who lies can also be silent
			s.Carry(far, nil)
			both.Wait()
			late.Stop()
			pairs <- [2]*outside{job, store}
		})
	}
	streams.Wait()
	close(pairs)
	for pair := range pairs {
		for i, o := range pair {
			if !errors.Is(o.end, io.EOF) {
				broken++
			} else if err := o.heard(pair[1-i]); err != nil {
				t.Errorf("seed %d: the %s %v: %d bytes of %d, %v", seed, [2]string{"job", "store"}[i], err, len(o.got), pair[1-i].wrote, pair[1-i].closed)
			} else {
				whole++
			}
		}
	}
	close(over)
	lanes.Wait()
	p.close()
	if used := pool.Used(); used != 0 {
		t.Errorf("seed %d: %d bytes of the pool are still in use", seed, used)
	}
	return whole, broken
}
