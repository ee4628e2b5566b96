package oracle

import (
	"net"

	"golang.org/x/sys/unix"
)

const tcpClose = 7 // TCP_CLOSE of linux/tcp_states.h

// isClosed tells whether the kernel has given the connection up, or this program has. After a mere FIN of the peer,
// neither has.
func isClosed(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err != nil || info.State == tcpClose
	})
	return closed || err != nil
}
