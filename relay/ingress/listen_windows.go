package ingress

import "syscall"

const inherits = false

// acceptedKeepAlive is as package net does it.
const acceptedKeepAlive = 0

func armListener(_, _ string, raw syscall.RawConn) (err error) {
	controlErr := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptLinger(syscall.Handle(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
	if controlErr != nil {
		return controlErr
	}
	return err
}
