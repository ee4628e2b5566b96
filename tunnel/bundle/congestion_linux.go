package bundle

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SettleCongestion gives a TCP connection the congestion control that fits its
// path, as the kernel measured it so far: Cubic where the round trip is below
// 5 ms, because there BBR, which is some systems' default, paces each packet by
// a timer and costs a tenth to a quarter more CPU for nothing; elsewhere BBR,
// which loss does not slow down, and little in the kernel that was not sent. The
// system's choice stays where the kernel has no other, or somebody made another
// one. It looks through connections with a method NetConn and does nothing to
// what is not TCP.
func SettleCongestion(conn net.Conn) {
	controlTCP(conn, func(fd int) {
		now, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err != nil || now != "bbr" && now != "cubic" {
			return // somebody chose it
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		fits := "cubic"
		rtt := time.Duration(info.Rtt) * time.Microsecond
		if rtt >= shortPath {
			fits = "bbr"
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLong)
		}
		if rtt > 0 && fits != now {
			_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, fits)
		}
	})
}

// BeginCongestion gives a socket that is not connected yet Cubic where the system's
// default is BBR, until SettleCongestion knows the path: a connection on which BBR
// began is paced by timers to its end, whatever takes its place. The connections
// of a listening socket get what it has. It is a Control for [net.Dialer] and
// [net.ListenConfig], and never fails.
func BeginCongestion(_, _ string, raw syscall.RawConn) error {
	_ = raw.Control(func(fd uintptr) {
		if now, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION); err == nil && now == "bbr" {
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		}
	})
	return nil
}

// unsentLong is how many bytes the kernel takes on long paths before it can send
// them.
const unsentLong = 128 << 10

// controlTCP calls f with the descriptor of the TCP connection at the bottom of
// conn, if there is one.
func controlTCP(conn net.Conn, f func(fd int)) {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			if raw, err := c.SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) { f(int(fd)) })
			}
			return
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return
		}
	}
}
