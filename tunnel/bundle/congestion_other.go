//go:build !linux

package bundle

import "net"

// SettleCongestion leaves the system's choice, here.
func SettleCongestion(net.Conn) {}
