//go:build !linux

package oracle

import "net"

// isClosed cannot tell elsewhere than on Linux.
func isClosed(*net.TCPConn) bool { return false }
