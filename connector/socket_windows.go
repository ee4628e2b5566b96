package connector

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// Errors of connect.
const (
	errRefused     = windows.WSAECONNREFUSED
	errReset       = windows.WSAECONNRESET
	errTimedOut    = windows.WSAETIMEDOUT
	errNoSockets   = windows.WSAEMFILE
	errSystemFull  = windows.WSAENOBUFS
	errNoLocalPort = windows.WSAEADDRNOTAVAIL
)

func setLingerZero(rc syscall.RawConn) error {
	var err error
	if failed := rc.Control(func(fd uintptr) {
		err = windows.SetsockoptLinger(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_LINGER, &windows.Linger{Onoff: 1, Linger: 0})
	}); failed != nil {
		return failed
	}
	return err
}
