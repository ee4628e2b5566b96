//go:build !linux

package loopback

import "testing"

// fullBacklog knows how only on Linux.
func fullBacklog(t *testing.T) string {
	t.Helper()
	t.Skip("NOT RUN: a listener that never answers can be made on Linux only")
	return ""
}
