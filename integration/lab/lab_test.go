//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// childEnv makes this test program bring up a lab and wait to be killed.
const childEnv = "EBBGATE_LAB_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/ebbgate/ebbgate/integration/proc.(*Thread).run"))
}

func child() {
	l, err := Start(context.Background(), []Kind{Open}, nginx)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("ready %q\n", l.Dir())
	select {}
}

func nginx(ctx context.Context, l *Lab) error {
	_, err := l.StartNginx(ctx, l.Corp, 8080)
	return err
}

func postgres(ctx context.Context, l *Lab) error {
	_, err := l.StartPostgres(ctx, l.Corp, 5432)
	return err
}

func need(t *testing.T) context.Context {
	t.Helper()
	if err := Missing(); err != nil {
		t.Skip("NOT RUN:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestLab(t *testing.T) {
	ctx := need(t)
	began := time.Now()
	l, err := Start(ctx, []Kind{Open, Basic, NTLM, NTLMClose}, postgres, nginx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up after %v", time.Since(began))
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := commands(l.dir); len(left) > 0 {
			t.Errorf("still running: %q", left)
		}
	}()
	relay, err := l.Cloud.Listen("tcp", cloudAddr+":443")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "cloud") })}
	defer func() { _ = server.Close() }()
	go func() { _ = server.Serve(relay) }()

	t.Run("firewall", func(t *testing.T) {
		if conn, err := l.Corp.Dial(ctx, "tcp", cloudAddr+":443"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("corp reached the cloud: %v, %v", conn, err)
		}
		deny, err := l.AllowTCP(ctx, 443)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Corp.Dial(ctx, "tcp", cloudAddr+":443")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		if err := deny(ctx); err != nil {
			t.Fatal(err)
		}
		if conn, err := l.Corp.Dial(ctx, "tcp", cloudAddr+":443"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("corp reached the cloud: %v, %v", conn, err)
		}
	})
	t.Run("names", func(t *testing.T) {
		if out, err := l.Corp.Run(ctx, "", "getent", "hosts", RelayName); err == nil {
			t.Fatalf("corp resolves %s", out)
		}
		hide, err := l.RevealRelay()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Corp.Run(ctx, "", "getent", "hosts", RelayName); err != nil {
			t.Fatal(err)
		}
		if err := hide(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("proxies", func(t *testing.T) { testProxies(ctx, t, l) })
	t.Run("stores", func(t *testing.T) {
		if out, err := proc.Run(ctx, proc.Spec{
			Path: "psql", Args: []string{"-Atc", "select version()"}, Where: l.Corp, Env: (&Postgres{}).Env("sql01.corp.test", 5432),
		}); err != nil || !strings.HasPrefix(string(out), "PostgreSQL 15") {
			t.Fatalf("%s, %v", out, err)
		}
		if _, err := l.Corp.Run(ctx, "upload", "curl", "-sSf", "-T", "-", "http://files.corp.test:8080/put/a/b"); err != nil {
			t.Fatal(err)
		}
		out, err := l.Corp.Run(ctx, "", "curl", "-sSf", "http://files.corp.test:8080/put/a/b")
		if err != nil || out != "upload" {
			t.Fatalf("%q, %v", out, err)
		}
	})
}

func testProxies(ctx context.Context, t *testing.T, l *Lab) {
	curl := func(kind Kind, user string, options ...string) (string, error) {
		args := []string{"-sSfp", "-x", "http://" + l.Squid(kind).Addr, "http://" + RelayName + ":443/"}
		if user != "" {
			args = append(args, "-U", user)
		}
		return l.Corp.Run(ctx, "", "curl", append(args, options...)...)
	}
	for _, test := range []struct {
		kind    Kind
		user    string
		options []string
		ok      bool
	}{
		{Open, "", nil, true},
		{Basic, "", nil, false},
		{Basic, BasicUser + ":" + BasicPassword, nil, true},
		{Basic, BasicUser + ":wrong", nil, false},
		{NTLM, "", nil, false},
		{NTLM, `CORP\` + User + ":" + Password, []string{"--proxy-ntlm"}, true},
		{NTLM, `CORP\` + WrongUser + ":wrong", []string{"--proxy-ntlm"}, false},
		{NTLMClose, `CORP\` + User + ":" + Password, []string{"--proxy-ntlm"}, true},
	} {
		out, err := curl(test.kind, test.user, test.options...)
		if (err == nil) != test.ok || (test.ok && out != "cloud") {
			t.Errorf("%s as %q: %q, %v", test.kind, test.user, out, err)
		}
	}
	requests, err := l.Squid(Basic).Requests()
	requests = slices.DeleteFunc(requests, func(r Request) bool { return r.Method != http.MethodConnect })
	if err != nil || len(requests) != 3 {
		t.Fatalf("basic's log: %+v, %v", requests, err)
	}
	for account, want := range map[string]string{User: "NT_STATUS_OK", WrongUser: "NT_STATUS_WRONG_PASSWORD"} {
		seen, err := l.Authentications(account)
		if err != nil {
			t.Fatal(err)
		}
		if len(seen) == 0 || slices.ContainsFunc(seen, func(a Authentication) bool { return a.Status != want }) {
			t.Errorf("the DC saw %+v, want %s", seen, want)
		}
		t.Logf("%s: %+v", account, seen)
	}
}

// TestKilled kills a process that has a lab up: the lab's programs go with it, and the next lab removes its files.
func TestKilled(t *testing.T) {
	ctx := need(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := proc.Start(proc.Spec{Path: self, Env: []string{childEnv + "=1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	var dir string
	if err := p.Ready(ctx, &dir); err != nil {
		t.Fatal(err)
	}
	if len(commands(dir)) < 2 { // nginx and Squid
		t.Fatalf("running: %q", commands(dir))
	}
	p.Kill()
	for len(commands(dir)) > 0 { // the kernel kills them at once, but not before Kill returns
		if ctx.Err() != nil {
			t.Fatalf("still running: %q", commands(dir))
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	sweep()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the directory is still there: %v", err)
	}
}

// commands returns the command lines that name a directory.
func commands(dir string) []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), dir) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// TestHost shows that a host is one of its own even without a lab.
func TestHost(t *testing.T) {
	ctx := need(t)
	dir := t.TempDir()
	h, err := NewHost(dir, "alone", map[string]string{"/srv": "srv"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Mount("/srv", 1<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Run(ctx, "", "sh", "-c", "hostname; head -c 2000000 /dev/zero > /srv/full"); err == nil || !strings.HasPrefix(out, "alone") {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := os.Stat("/srv/full"); err == nil {
		t.Fatal("the mount is everybody's")
	}
	ln, err := h.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Fatal("reached it from outside")
	}
	conn, err := h.Dial(ctx, "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}
