//go:build linux

package stores

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// write writes content into a file of the stage.
func (s *stage) write(t *testing.T, name string, seed uint64, n int64) {
	t.Helper()
	write(t, filepath.Join(s.dir, name), seed, n)
}

// write writes content into a file.
func write(t *testing.T, path string, seed uint64, n int64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oracle.NewReader(seed, n).WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// verify compares a file with content, byte by byte.
func verify(t *testing.T, path string, seed uint64, n int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = f.Close() }()
	if got := oracle.Drain(f, seed, nil); got.Bytes != n || !got.Complete() {
		t.Errorf("%s: %v, want %d bytes", filepath.Base(path), got, n)
	}
}

// sparse makes a file of zeroes that takes no space.
func sparse(t *testing.T, path string, n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
