// Package postgrestest runs PostgreSQL servers for tests. [Start] makes one and
// skips the test, loudly, where the program is not installed; a [Server] can be
// stopped, killed, frozen and started again at the same address, and makes
// databases. It is no part of the relay.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// programs is where Debian keeps PostgreSQL 15.
const programs = "/usr/lib/postgresql/15/bin/"

// Password is that of user relay, who owns every database, at first.
const Password = "tide-and-gate"

// Server is a PostgreSQL server on a loopback address.
type Server struct {
	Addr string // host:port

	password string // of user relay

	dir  string
	attr *syscall.SysProcAttr
	cmd  *exec.Cmd
	over chan struct{}
	made atomic.Int32
}

// Installed tells whether the program is there.
func Installed() bool {
	_, err := os.Stat(programs + "postgres")
	return err == nil
}

// Start makes a server that ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s := New(t)
	t.Cleanup(s.Close)
	return s
}

// New is the same for a server that the caller closes.
func New(t testing.TB) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("NOT RUN: PostgreSQL takes its time")
	}
	if !Installed() {
		t.Skip("*** NOT RUN: PostgreSQL is missing: install Debian's package postgresql-15 ***")
	}
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start makes a server's data and starts it.
func start() (s *Server, err error) {
	s = &Server{Addr: freeAddr(), password: Password}
	if s.dir, err = os.MkdirTemp("", "ebbgate-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(s.dir)
		}
	}()
	if s.attr, err = owner(s.dir); err != nil {
		return nil, err
	}
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte(Password), 0o644); err != nil {
		return nil, err
	}
	initdb := exec.Command(programs+"initdb", "-D", s.data(), "-U", "relay", "-A", "scram-sha-256", "--pwfile", password,
		"-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = s.dir, s.attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	return s, s.Restart()
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// owner gives a folder to the user postgres, where this program is root's: the
// server refuses to be.
func owner(dir string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
	if err := errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid))); err != nil {
		return nil, err
	}
	return as(uint32(uid), uint32(gid)), nil
}

// freeAddr is a loopback address that is nobody else's: what other programs open
// comes from 127.0.0.1.
func freeAddr() string {
	for {
		addr := fmt.Sprintf("127.%d.%d.%d:%d", 1+rand.IntN(250), 1+rand.IntN(250), 1+rand.IntN(250), 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
}

// RestartAs is Restart after the password of user relay was changed.
func (s *Server) RestartAs(password string) error {
	s.password = password
	return s.Restart()
}

// Restart starts a server that has ended, and waits until it serves. Options are
// settings, as read_only=on.
func (s *Server) Restart(options ...string) error {
	host, port, _ := net.SplitHostPort(s.Addr)
	args := []string{
		"-D", s.data(), "-p", port, "-c", "listen_addresses=" + host, "-c", "unix_socket_directories=" + s.dir, "-c", "fsync=off",
		"-c", "dynamic_shared_memory_type=mmap", "-c", "shared_buffers=16MB", "-c", "max_connections=60",
	}
	for _, o := range options {
		args = append(args, "-c", o)
	}
	s.cmd = exec.Command(programs+"postgres", args...)
	s.cmd.Dir, s.cmd.SysProcAttr = s.dir, s.attr
	log, err := os.OpenFile(s.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.over = make(chan struct{})
	started := make(chan error, 1)
	go s.run(s.cmd, started, s.over)
	if err := <-started; err != nil {
		return err
	}
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := pgx.Connect(context.Background(), s.url("postgres"))
		if err == nil {
			return conn.Close(context.Background())
		}
		select {
		case <-s.over:
			text, _ := os.ReadFile(s.Log())
			return fmt.Errorf("the server ended: %s", text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not serve: %w", err)
		}
	}
}

// run runs the server on a thread of its own: the kernel ends the server with the
// thread that started it, also where this program is killed.
func (s *Server) run(cmd *exec.Cmd, started chan<- error, over chan<- struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(over)
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait()
	}
}

// Log is the path of what the server says.
func (s *Server) Log() string { return filepath.Join(s.dir, "log") }

func (s *Server) url(database string) string {
	return "postgres://relay:" + s.password + "@" + s.Addr + "/" + database
}

// Database makes an empty database and gives its address, with the password.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("relays%d", s.made.Add(1))
	s.Exec(t, "postgres", "CREATE DATABASE "+name)
	return s.url(name)
}

// Exec executes SQL in a database, which is the last part of an address.
func (s *Server) Exec(t testing.TB, database, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url(filepath.Base(database)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the server as an administrator would in a hurry: sessions are cut.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

// Kill ends it without any orderly end; its children notice.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

func (s *Server) end(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	<-s.over
}

// Close ends the server and removes its data.
func (s *Server) Close() {
	select {
	case <-s.over:
	default:
		_ = s.Thaw()
		s.Kill()
	}
	_ = os.RemoveAll(s.dir)
}
