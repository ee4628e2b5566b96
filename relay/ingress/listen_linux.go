package ingress

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// inherits: accepted sockets have their listener's options, which saves six system
// calls for each.
const inherits = true

// acceptedKeepAlive leaves accepted sockets as they are.
const acceptedKeepAlive = -1

// armListener sets what the accepted sockets are to have: SO_LINGER 0, and the
// keepalive that package net sets elsewhere.
func armListener(_, _ string, raw syscall.RawConn) (err error) {
	set := func(fd uintptr) {
		if err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return
		}
		for _, o := range [][3]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
		} {
			if err = unix.SetsockoptInt(int(fd), o[0], o[1], o[2]); err != nil {
				return
			}
		}
	}
	if failed := raw.Control(set); failed != nil {
		return failed
	}
	return err
}
