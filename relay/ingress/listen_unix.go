//go:build unix && !linux

package ingress

import "syscall"

const inherits = false

// acceptedKeepAlive is as package net does it.
const acceptedKeepAlive = 0

// armListener sets SO_LINGER 0 on the listening socket, for systems that hand it on.
func armListener(_, _ string, raw syscall.RawConn) (err error) {
	controlErr := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
