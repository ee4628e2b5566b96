//go:build unix

package ingress

import "syscall"

// lingerZero sets SO_LINGER 0 on the listening socket; Linux hands it on to
// each accepted one.
func lingerZero(_, _ string, raw syscall.RawConn) (err error) {
	controlErr := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
