//go:build unix

package faults

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// way is one of a link's two directions.
type way int

const (
	up   way = iota // from those who dial
	down            // to them
)

func (w way) String() string { return [...]string{"up", "down"}[w] }

// link forwards TCP connections, and UDP where it is asked to. It can be cut, in either direction or both: bytes stay
// where they are, datagrams are lost, and nobody hears that an end has closed. And it can spoil what it carries.
type link struct {
	t     *testing.T
	ctx   context.Context
	tasks sync.WaitGroup

	carried [2]atomic.Int64 // bytes and datagrams' bytes, by way

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // guarded by mu
	frozen [2]chan struct{}      // closed while bytes may move, by way; guarded by mu
	malice *malice               // nil: none; guarded by mu
}

// newLink makes a link that forwards nothing yet, until the test ends.
func newLink(t *testing.T) *link {
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{t: t, ctx: ctx, conns: make(map[net.Conn]struct{})}
	for w := range l.frozen {
		l.frozen[w] = make(chan struct{})
		close(l.frozen[w])
	}
	t.Cleanup(func() {
		cancel()
		l.kill()
		l.tasks.Wait()
	})
	return l
}

// forward has the link listen for TCP and UDP, on another address with the same port, for that is what ends tell each
// other, and forward to an address. It gives its own.
func (l *link) forward(host, to string) (addr string) {
	l.t.Helper()
	_, port, err := net.SplitHostPort(to)
	if err != nil {
		l.t.Fatal(err)
	}
	addr = net.JoinHostPort(host, port)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		if runtime.GOOS != "linux" {
			l.t.Skip("NOT RUN: this machine has no address ", host)
		}
		l.t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		_ = tcp.Close()
		l.t.Fatal(err)
	}
	context.AfterFunc(l.ctx, func() { _ = tcp.Close(); _ = udp.Close() })
	l.tasks.Go(func() { l.accept(tcp, to) })
	l.tasks.Go(func() { l.datagrams(udp.(*net.UDPConn), to) })
	return addr
}

// bytes is how many the link has carried.
func (l *link) bytes() int64 { return l.carried[up].Load() + l.carried[down].Load() }

func (l *link) accept(tcp net.Listener, to string) {
	for {
		near, err := tcp.Accept()
		if err != nil {
			return
		}
		l.tasks.Go(func() { l.carry(near.(*net.TCPConn), to) })
	}
}

func (l *link) carry(near *net.TCPConn, to string) {
	if !l.enter(near) || !l.pass(up) {
		_ = near.Close()
		return
	}
	defer l.leave(near)
	conn, err := new(net.Dialer).DialContext(l.ctx, "tcp", to)
	if err != nil {
		_ = near.Close()
		return
	}
	far := conn.(*net.TCPConn)
	if !l.enter(far) {
		_ = near.Close()
		_ = far.Close()
		return
	}
	defer l.leave(far)
	l.mu.Lock()
	both := l.malice.spoilers() // nil, nil: none
	l.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(up, far, near, both[up]) })
	pumps.Go(func() { l.pump(down, near, far, both[down]) })
	pumps.Wait()
}

// pump moves one direction. What becomes of an end is news that travels like bytes.
func (l *link) pump(w way, to, from *net.TCPConn, s *spoiler) {
	var in units = raw(make([]byte, 64<<10))
	if s != nil {
		in = s
	}
	for {
		unit, err := in.next(from)
		if len(unit) > 0 {
			if !l.pass(w) {
				return
			}
			l.carried[w].Add(int64(len(unit)))
			pieces, end := [][]byte{unit}, false
			if s != nil {
				pieces, end = s.spoil(unit)
			}
			for _, piece := range pieces {
				if _, err := to.Write(piece); err != nil {
					l.pass(1 - w)
					_ = from.Close()
					_ = to.Close()
					return
				}
			}
			if end { // what comes is not read any more, and the other direction goes on
				_ = to.CloseWrite()
				return
			}
		}
		if err != nil {
			l.pass(w)
			if !errors.Is(err, io.EOF) {
				_ = to.SetLinger(0)
			}
			_ = to.Close()
			_ = from.Close()
			return
		}
	}
}

// datagrams forwards UDP, each of those who dial by a socket of its own.
func (l *link) datagrams(near *net.UDPConn, to string) {
	peers := make(map[string]net.Conn)
	buf := make([]byte, 64<<10)
	for {
		n, from, err := near.ReadFrom(buf)
		if l.ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // the far end of an earlier datagram is closed
		}
		far := peers[from.String()]
		if far == nil {
			if far, err = net.Dial("udp", to); err != nil {
				continue
			}
			peers[from.String()] = far
			context.AfterFunc(l.ctx, func() { _ = far.Close() })
			l.tasks.Go(func() { l.answers(near, from, far) })
		}
		l.datagram(up, buf[:n], func(b []byte) { _, _ = far.Write(b) })
	}
}

func (l *link) answers(near *net.UDPConn, to net.Addr, far net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := far.Read(buf)
		if l.ctx.Err() != nil {
			return
		}
		if err == nil {
			l.datagram(down, buf[:n], func(b []byte) { _, _ = near.WriteTo(b, to) })
		}
	}
}

// datagram sends one on, unless that way is cut.
func (l *link) datagram(w way, b []byte, send func([]byte)) {
	l.mu.Lock()
	frozen, malice := l.frozen[w], l.malice
	l.mu.Unlock()
	select {
	case <-frozen:
	default:
		return
	}
	l.carried[w].Add(int64(len(b)))
	for _, piece := range malice.datagram(b) {
		send(piece)
	}
}

// enter keeps a connection to be killed; false: the test is over.
func (l *link) enter(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *link) leave(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close()
}

// pass waits until bytes may move that way; false: the test is over.
func (l *link) pass(w way) bool {
	for {
		l.mu.Lock()
		frozen := l.frozen[w]
		l.mu.Unlock()
		select {
		case <-frozen:
		case <-l.ctx.Done():
			return false
		}
		l.mu.Lock()
		same := l.frozen[w] == frozen
		l.mu.Unlock()
		if same {
			return true
		}
	}
}

// freeze keeps what goes some ways where it is; thaw lets it go on.
func (l *link) freeze(ways ...way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range ways {
		l.frozen[w] = make(chan struct{})
	}
}

func (l *link) thaw(ways ...way) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range ways {
		close(l.frozen[w])
	}
}

// spoil has connections that come from now on, and datagrams, spoiled; nil: no more.
func (l *link) spoil(m *malice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.malice = m
}

// kill resets every connection.
func (l *link) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}
