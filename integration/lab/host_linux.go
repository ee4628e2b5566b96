package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// Host is a computer of the lab: a network, a host name and mounts of its own. It implements proc.Starter; its
// methods are safe for concurrent use.
type Host struct {
	name string
	dir  string // holds its files
	addr string // without a port

	thread *proc.Thread
	net    *os.File // its network namespace
}

// NewHost makes a host without any network but loopback, which keeps its files below dir/name. Mounts maps paths
// to what the host sees there: the name of a directory or file below dir/name. What is mounted must exist on the
// machine too.
func NewHost(dir, name string, mounts map[string]string) (*Host, error) {
	h := &Host{name: name, dir: filepath.Join(dir, name)}
	for at, what := range mounts {
		if err := prepareMount(at, filepath.Join(h.dir, what)); err != nil {
			return nil, fmt.Errorf("lab: host %s: %w", name, err)
		}
	}
	var err error
	if h.thread, err = proc.NewThread(func() error { return h.enter(mounts) }); err != nil {
		return nil, fmt.Errorf("lab: host %s: %w", name, err)
	}
	return h, nil
}

// prepareMount makes the directory or (empty) file that is mounted, unless it is there.
func prepareMount(at, what string) error {
	if strings.Contains(filepath.Base(what), ".") {
		if err := os.MkdirAll(filepath.Dir(what), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(what, os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	if err := os.MkdirAll(what, 0o755); err != nil {
		return err
	}
	return os.MkdirAll(at, 0o755)
}

// enter runs on the host's thread and gives it the namespaces.
func (h *Host) enter(mounts map[string]string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Sethostname([]byte(h.name)); err != nil {
		return fmt.Errorf("sethostname: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount /: %w", err)
	}
	for at, what := range mounts {
		if err := unix.Mount(filepath.Join(h.dir, what), at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	var err error
	if h.net, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}

// Name returns the host's name, Addr its address without a port, and Dir the directory of its files.
func (h *Host) Name() string { return h.name }

// Addr returns the host's address, without a port.
func (h *Host) Addr() string { return h.addr }

// Dir returns the directory below which the host's files are.
func (h *Host) Dir() string { return h.dir }

// Start implements proc.Starter.
func (h *Host) Start(cmd *exec.Cmd) error { return h.thread.Start(cmd) }

// Mount mounts an empty file system of so many bytes at a directory that only this host sees so.
func (h *Host) Mount(at string, size int64) (err error) {
	h.thread.Do(func() {
		err = unix.Mount("tmpfs", at, "tmpfs", 0, fmt.Sprintf("size=%d", size))
	})
	if err != nil {
		return fmt.Errorf("lab: host %s: mount %s: %w", h.name, at, err)
	}
	return nil
}

// Do runs f as the host: files and new sockets are the host's. It must not start goroutines, and blocks the host.
func (h *Host) Do(f func()) { h.thread.Do(f) }

// Dial connects from the host to an address, which must be numeric.
func (h *Host) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if inErr := h.inNetwork(func() { conn, err = new(net.Dialer).DialContext(ctx, network, addr) }); inErr != nil {
		return nil, inErr
	}
	return conn, err
}

// Listen listens on an address of the host, which must be numeric.
func (h *Host) Listen(network, addr string) (ln net.Listener, err error) {
	if inErr := h.inNetwork(func() { ln, err = net.Listen(network, addr) }); inErr != nil {
		return nil, inErr
	}
	return ln, err
}

// inNetwork runs f on a thread that is in the host's network meanwhile. For a numeric address, package net makes
// its socket on the calling thread.
func (h *Host) inNetwork(f func()) error {
	failed := make(chan error)
	go h.visit(f, failed)
	return <-failed
}

func (h *Host) visit(f func(), failed chan<- error) {
	runtime.LockOSThread() // where it is not unlocked again, the thread ends with the goroutine
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		failed <- fmt.Errorf("lab: %w", err)
		return
	}
	defer func() { _ = home.Close() }()
	if err := unix.Setns(int(h.net.Fd()), unix.CLONE_NEWNET); err != nil {
		failed <- fmt.Errorf("lab: host %s: setns: %w", h.name, err)
		return
	}
	f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err == nil {
		runtime.UnlockOSThread()
	}
	failed <- nil
}

// Run runs a program on the host to its end and returns its standard output. The input may be empty.
func (h *Host) Run(ctx context.Context, input, program string, args ...string) (string, error) {
	out, err := proc.Run(ctx, proc.Spec{
		Name:  h.name + ": " + filepath.Base(program),
		Path:  program,
		Args:  args,
		Stdin: strings.NewReader(input),
		Where: h,
	})
	return string(out), err
}

// daemon starts a program in a process namespace of its own, so that everything that it forks dies with it. A shell
// leads the namespace: programs that change their user, as Squid does, lose the kernel's promise to kill them.
func (h *Host) daemon(spec proc.Spec) (*proc.Process, error) {
	if spec.Name == "" {
		spec.Name = filepath.Base(spec.Path)
	}
	spec.Args = append([]string{"-c", `"$@" & wait $!`, "sh", spec.Path}, spec.Args...)
	spec.Path = "sh"
	spec.Where = h
	var a syscall.SysProcAttr
	if spec.Attr != nil {
		a = *spec.Attr
	}
	a.Cloneflags |= unix.CLONE_NEWPID
	a.Setsid = true
	spec.Attr = &a
	return proc.Start(spec)
}

// reachable waits until each of the host's ports accepts connections.
func (h *Host) reachable(ctx context.Context, from *Host, p *proc.Process, ports ...int) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, port := range ports {
		addr := net.JoinHostPort(h.addr, fmt.Sprint(port))
		for {
			conn, err := from.Dial(ctx, "tcp", addr)
			if err == nil {
				_ = conn.Close()
				break
			}
			select {
			case <-tick.C:
			case <-p.Done():
				return p.Failure("ended")
			case <-ctx.Done():
				return errors.Join(p.Failure("does not listen on "+addr), err)
			}
		}
	}
	return nil
}

// write writes a file of the host and the directories above it.
func (h *Host) write(name, content string) error {
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}
