package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// Lab is a corporate network that is up. Its methods are safe for concurrent use.
type Lab struct {
	Corp, DC, Proxy, Cloud *Host

	dir     string
	lock    *os.File
	daemons daemons

	squids map[Kind]*Squid
}

// programs are what the lab runs, beside those of the stores.
var programs = []string{
	"ip", "nft", "openssl", "samba", "samba-tool", systemPython, "net", "winbindd", "wbinfo", "ntlm_auth", "squid",
}

// MissingError says why the lab cannot run here.
type MissingError struct {
	Root     bool     // not root
	Programs []string // not installed
}

func (e *MissingError) Error() string {
	var why []string
	if e.Root {
		why = append(why, "it needs root")
	}
	if len(e.Programs) > 0 {
		why = append(why, "not installed: "+strings.Join(e.Programs, " ")+" (integration/packages.txt lists the Debian packages)")
	}
	return "lab: cannot run here: " + strings.Join(why, "; ")
}

// Missing returns a *MissingError if the lab, or a store of it, cannot run here.
func Missing() error {
	e := &MissingError{Root: os.Geteuid() != 0}
	for _, p := range append(append([]string{}, programs...), "nginx", "psql", "pg_dump", "curl", postgresLib+"initdb") {
		if _, err := exec.LookPath(p); err != nil {
			e.Programs = append(e.Programs, p)
		}
	}
	if !e.Root && e.Programs == nil {
		return nil
	}
	return e
}

// Start brings up a lab with proxies of the kinds, in some seven seconds. As soon as the network is there it also
// runs the functions, such as those that start stores. The domain (see startDC) is only made if a proxy needs it.
// If it returns no error, the lab must be closed.
func Start(ctx context.Context, kinds []Kind, stores ...func(context.Context, *Lab) error) (*Lab, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	sweep()
	dir, lock, err := newDir()
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: dir, lock: lock, squids: make(map[Kind]*Squid)}
	if err := l.start(ctx, kinds, stores); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, kinds []Kind, stores []func(context.Context, *Lab) error) error {
	if err := l.hosts(); err != nil {
		return err
	}
	if err := l.connect(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range stores {
		group.Go(func() error { return f(ctx, l) })
	}
	group.Go(func() error {
		if slices.Contains(kinds, NTLM) || slices.Contains(kinds, NTLMClose) {
			if err := l.startDC(ctx); err != nil {
				return err
			}
			if err := l.startMember(ctx); err != nil {
				return err
			}
		}
		for _, kind := range kinds {
			if err := l.startSquid(ctx, kind); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// Dir returns a directory that lives as long as the lab and that every user may enter.
func (l *Lab) Dir() string { return l.dir }

// Close ends every program that the lab started and removes its files. What tests started on the lab's hosts
// they end themselves.
func (l *Lab) Close() error {
	l.daemons.kill()
	return errors.Join(os.RemoveAll(l.dir), l.lock.Close())
}

// daemons are the running programs.
type daemons struct {
	mu  sync.Mutex
	all []*proc.Process
}

func (d *daemons) add(p *proc.Process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, p)
}

func (d *daemons) kill() {
	d.mu.Lock()
	all := d.all
	d.all = nil
	d.mu.Unlock()
	for _, p := range all {
		p.Kill()
	}
}

const dirPattern = "ebbgate-lab-"

// newDir makes a lab's directory. Its lock is held as long as the process lives.
func newDir() (dir string, lock *os.File, err error) {
	if dir, err = os.MkdirTemp("", dirPattern); err != nil {
		return "", nil, fmt.Errorf("lab: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // squid and postgres run as other users
		return "", nil, fmt.Errorf("lab: %w", err)
	}
	if lock, err = os.Create(filepath.Join(dir, "lock")); err != nil {
		return "", nil, fmt.Errorf("lab: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, fmt.Errorf("lab: lock: %w", err)
	}
	return dir, lock, nil
}

// sweep removes the directories of labs whose process is gone. Nothing else outlives it.
func sweep() {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPattern+"*"))
	for _, dir := range old {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < time.Minute { // perhaps not locked yet
			continue
		}
		lock, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = lock.Close()
	}
}

// account returns the ids of a user of this machine.
func account(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("lab: %w", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, fmt.Errorf("lab: %w", err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, fmt.Errorf("lab: %w", err)
	}
	return uid, gid, nil
}
