package bundle

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// SettleCongestion gives a TCP connection the congestion control that fits its
// path, as the kernel measured it so far: Cubic where the round trip is below
// 5 ms, because there BBR, which is some systems' default, paces each packet by
// a timer and costs a tenth to a quarter more CPU for nothing. Elsewhere the
// system's choice stays. It looks through connections with a method NetConn and
// does nothing to what is not TCP, or where the kernel refuses.
func SettleCongestion(conn net.Conn) {
	controlTCP(conn, func(fd int) {
		now, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		if err != nil || now != "bbr" {
			return
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		if rtt := time.Duration(info.Rtt) * time.Microsecond; rtt > 0 && rtt < shortPath {
			_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		}
	})
}

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
