//go:build !linux

package postgrestest

import (
	"errors"
	"syscall"
)

func as(uint32, uint32) *syscall.SysProcAttr { return nil }

// Freeze is for Linux.
func (s *Server) Freeze() error { return errors.ErrUnsupported }

// Thaw is for Linux.
func (s *Server) Thaw() error { return errors.ErrUnsupported }
