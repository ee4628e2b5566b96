//go:build !linux

package proc

import "syscall"

// attr returns a: elsewhere than on Linux, a killed test leaves its children behind.
func attr(a *syscall.SysProcAttr) *syscall.SysProcAttr { return a }
