package connector

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Files of the state directory, beside certs.IdentityFile.
const (
	fileLock         = "lock"
	fileRegistration = "registration.json"
	fileEnrolment    = "enrolment.pem"
	fileCarriers     = "carriers.json"
	fileStatus       = "status.sock"
)

// maxStateFile bounds what is read of a file, in bytes.
const maxStateFile = 1 << 20

// stateDir is a state directory that belongs to this process.
type stateDir struct {
	path string
	lock *os.File
}

// openStateDir makes the directory where it is missing, keeps others out of it
// and locks it.
func openStateDir(path string) (*stateDir, error) {
	if path == "" {
		return nil, failure("state-dir-unusable", "config", nil, "set state_dir in connector.yaml, to /var/lib/ebbgate-connector for instance", "no state directory is configured")
	}
	unusable := func(err error) error {
		return failure("state-dir-unusable", "config", err, "see that the directory can be made and that it belongs to the user that the connector runs as",
			"the state directory %s cannot be used: %v", path, reason(err))
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, unusable(err)
	}
	if err := makePrivate(path); err != nil {
		return nil, unusable(err)
	}
	lock, err := os.OpenFile(filepath.Join(path, fileLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(err)
	}
	if err := lockFile(lock); err != nil {
		held := make([]byte, 32)
		n, _ := lock.Read(held)
		_ = lock.Close()
		if !errors.Is(err, errLocked) {
			return nil, unusable(err)
		}
		who := ""
		if pid, err := strconv.Atoi(strings.TrimSpace(string(held[:n]))); err == nil {
			who = fmt.Sprintf(" (process %d)", pid)
		}
		return nil, failure("connector-running", "config", err, "stop the connector that runs, or give this one a state_dir of its own",
			"another connector%s uses the state directory %s", who, path)
	}
	// Who holds the lock is told as far as the disk allows.
	_ = lock.Truncate(0)
	_, _ = lock.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
	return &stateDir{path, lock}, nil
}

func (d *stateDir) close() { _ = d.lock.Close() }

func (d *stateDir) file(name string) string { return filepath.Join(d.path, name) }

// read reads a file; fs.ErrNotExist where there is none.
func (d *stateDir) read(name string) ([]byte, error) {
	f, err := os.Open(d.file(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.Size() > maxStateFile:
		return nil, fmt.Errorf("it has %d bytes", info.Size())
	}
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

// replace writes a file: after a crash there is the old one or the new one.
func (d *stateDir) replace(name string, content []byte) error {
	f, err := os.CreateTemp(d.path, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), d.file(name))
	}
	if err != nil {
		return err
	}
	return syncDir(d.path)
}

// remove removes a file that need not be there.
func (d *stateDir) remove(name string) error {
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// has tells whether a file is there, or something that keeps us from knowing.
func (d *stateDir) has(name string) bool {
	_, err := os.Lstat(d.file(name))
	return !errors.Is(err, fs.ErrNotExist)
}

// probe finds out whether the directory takes files of so many bytes, before
// something happens that has to be written down.
func (d *stateDir) probe(size int) error {
	const name = ".probe"
	err := d.replace(name, make([]byte, size))
	if removed := d.remove(name); err == nil {
		err = removed
	}
	if err != nil {
		return saveError(d.path, err)
	}
	return nil
}

// saveError is state that could not be written.
func saveError(dir string, err error) *Error {
	return failure("state-unavailable", "node", err, "see that the disk has room and that the directory belongs to the user that the connector runs as",
		"the state directory %s cannot be written: %v", dir, reason(err))
}

// reason leaves out the path that an error of package os repeats.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
