package connector

import (
	"os"

	"golang.org/x/sys/windows"
)

// errLocked is a lock that another process holds.
const errLocked = windows.ERROR_LOCK_VIOLATION

// lockFile locks f until it is closed or the process ends. The lock lies far
// behind the content, which stays readable for others.
func lockFile(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
		&windows.Overlapped{Offset: 0, OffsetHigh: 1})
}

// makePrivate does nothing: on Windows the directory inherits who may read it.
func makePrivate(string) error { return nil }

// syncDir does nothing: Windows cannot.
func syncDir(string) error { return nil }
