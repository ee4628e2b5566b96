//go:build !linux

package bundle

import (
	"net"
	"syscall"
)

// SettleCongestion leaves the system's choice, here.
func SettleCongestion(net.Conn) {}

// BeginCongestion leaves it, too.
func BeginCongestion(_, _ string, _ syscall.RawConn) error { return nil }
