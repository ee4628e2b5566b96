//go:build unix

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
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
