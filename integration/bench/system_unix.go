//go:build unix

package main

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// raiseFiles raises the limit of open files for this process and, because it was asked for, its children.
func raiseFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// freeze stops a process where it is, and thaw lets it go on.
func freeze(p *proc.Process) error { return p.Signal(unix.SIGSTOP) }
func thaw(p *proc.Process) error   { return p.Signal(unix.SIGCONT) }

// as makes a process another user's.
func as(uid, gid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
