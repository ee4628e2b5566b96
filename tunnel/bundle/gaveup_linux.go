package bundle

import (
	"syscall"

	"golang.org/x/sys/unix"
)

const tcpClose = 7 // TCP_CLOSE of include/net/tcp_states.h

// gaveUp tells whether the kernel has given a TCP connection up, or whether it
// is closed here. After a mere FIN of the peer, neither is.
func gaveUp(sock Socket) bool {
	conn, ok := sock.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err == nil && info.State == tcpClose
	})
	return closed || err != nil
}
