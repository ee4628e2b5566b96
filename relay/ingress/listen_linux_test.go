package ingress

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAcceptedSocketsInherit: what the listener was given once, accepted sockets
// have: SO_LINGER 0 from birth, and keepalive.
func TestAcceptedSocketsInherit(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	job, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer job.Close()
	g := newGate(l, 1, nil)
	conn, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*armedConn).Socket.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		linger, err := unix.GetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER)
		if err != nil || linger.Onoff != 1 || linger.Linger != 0 {
			t.Errorf("SO_LINGER %+v, %v", linger, err)
		}
		for _, o := range [][3]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		} {
			if n, err := unix.GetsockoptInt(int(fd), o[0], o[1]); err != nil || n != o[2] {
				t.Errorf("option %d of level %d is %d, %v; want %d", o[1], o[0], n, err, o[2])
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}
