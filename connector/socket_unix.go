//go:build unix

package connector

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Errors of connect(2).
const (
	errRefused     = unix.ECONNREFUSED
	errReset       = unix.ECONNRESET
	errTimedOut    = unix.ETIMEDOUT
	errNoSockets   = unix.EMFILE
	errSystemFull  = unix.ENFILE
	errNoLocalPort = unix.EADDRNOTAVAIL
)

func setLingerZero(rc syscall.RawConn) error {
	var err error
	if failed := rc.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
	}); failed != nil {
		return failed
	}
	return err
}
