//go:build !linux

package state

import "testing"

func smallDisk(t *testing.T, _ string) string {
	t.Helper()
	t.Skip("NOT TESTED: a full disk, on systems other than Linux")
	return ""
}
