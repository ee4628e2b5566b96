package oracle

import (
	"net"

	"golang.org/x/sys/unix"
)

const tcpClose = 7 // TCP_CLOSE of linux/tcp_states.h

// isClosed tells whether the kernel has given the connection up. After a mere FIN of the peer, it has not.
func isClosed(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err == nil && info.State == tcpClose
	})
	return closed
}
