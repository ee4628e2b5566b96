package activity

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestDiskFull: on a full disk the record is not written, says so and is written
// again once there is room; lists are answered meanwhile.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a full disk; only root may mount a small one")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("NOT TESTED: a full disk; a small one cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r := record(t, filepath.Join(dir, "activity.db"), nil)
	n := 0
	more := func() error {
		var halves []Half
		for range 500 {
			halves = append(halves, half(Ingress, n))
			n++
		}
		return r.Record(t.Context(), halves)
	}
	var err error
	for err == nil && n < 1<<15 {
		err = more()
	}
	if err == nil || !r.log.has("is not written") {
		t.Fatalf("a full disk takes %d streams: %v", n, err)
	}
	full := n - 500
	r.Note(half(Ingress, 60000))
	if runs := r.list(Query{}); len(runs) != 1 || runs[0].Streams != int64(full) {
		t.Errorf("%d streams were acknowledged, %+v are listed", full, runs)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for r.Record(t.Context(), []Half{half(Ingress, 60001)}) != nil {
		<-tick.C
	}
	r.record(half(Ingress, 60000)) // noted before
	if runs := r.list(Query{}); runs[0].Streams != int64(full)+2 || !r.log.has("written again") {
		t.Errorf("%d and two more, but %+v", full, runs)
	}
}
