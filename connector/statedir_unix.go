//go:build unix

package connector

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// errLocked is a lock that another process holds.
const errLocked = unix.EWOULDBLOCK

// lockFile locks f until it is closed or the process ends.
func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// makePrivate keeps group and others out of a directory, if it is this program's
// or empty: nobody wants /tmp to be made private by a slip in a configuration.
func makePrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return unix.ENOTDIR
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	ours := func(e os.DirEntry) bool { return e.Name() == fileLock || e.Name() == fileRegistration }
	if len(entries) > 0 && !slices.ContainsFunc(entries, ours) {
		return errors.New("others may read it, and it holds files of something else")
	}
	return os.Chmod(path, 0o700)
}

// syncDir makes a rename in a directory outlive a crash.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
