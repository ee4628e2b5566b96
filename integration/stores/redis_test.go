//go:build linux

package stores

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// startRedis starts a server whose data are in a folder.
func startRedis(ctx context.Context, t *testing.T, addr, dir string) *daemon {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	loaded := make(chan struct{}) // it answers some commands, debug digest among them, while it still loads
	ready := sync.OnceFunc(func() { close(loaded) })
	d := startDaemon(ctx, t, addr, proc.Spec{
		Path: "redis-server",
		Args: []string{
			"--bind", host, "--port", port, "--dir", dir, "--dbfilename", "backup.rdb", "--save", "", "--appendonly", "no",
			"--repl-diskless-sync-delay", "0", "--rdbcompression", "no", "--enable-debug-command", "yes",
		},
		Lines: func(line string) {
			if strings.HasSuffix(line, "Ready to accept connections") {
				ready()
			}
		},
	})
	select {
	case <-loaded:
	case <-d.Done():
		t.Fatal(d.Failure("ended before it was ready"))
	case <-ctx.Done():
		t.Fatal(d.Failure("is not ready"))
	}
	return d
}

var hex40 = regexp.MustCompile(`[0-9a-f]{40}`)

// redisDigest returns a digest of all keys and values of a server, asked without a tunnel.
func (s *stage) redisDigest(ctx context.Context, t *testing.T, d *daemon) string {
	t.Helper()
	host, port, _ := strings.Cut(d.addr, ":")
	out := s.run(ctx, t, fmt.Sprintf("redis-cli -h %s -p %s debug digest", host, port))
	digest := hex40.FindString(out)
	if digest == "" || strings.Trim(digest, "0") == "" {
		t.Fatalf("digest: %s", out)
	}
	return digest
}

// TestRedis fills a server with commands, copies it by replication into another, has 50 clients at once, and a
// subscriber that waits meanwhile.
func TestRedis(t *testing.T) {
	ctx := need(t, map[string]string{"redis-server": "redis-server", "redis-cli": "redis-tools", "redis-benchmark": "redis-tools"})
	server := startRedis(ctx, t, freeAddr(t), t.TempDir())
	s := newStage(ctx, t, "Redis", "quic", map[string]string{"cache": server.addr})
	const entries = 20_000
	var commands bytes.Buffer
	for i := range entries {
		fmt.Fprintf(&commands, "SET key:%d %s\r\n", i, strings.Repeat(fmt.Sprintf("%08x", i), 1+i%300))
	}
	if err := os.WriteFile(filepath.Join(s.dir, "commands.txt"), commands.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := s.play(ctx, t); !strings.Contains(out, fmt.Sprintf("errors: 0, replies: %d", entries)) {
		t.Errorf("redis-cli --pipe: %s", out)
	}
	if n := s.run(ctx, t, "cat keys.txt"); n != fmt.Sprintf("%d\n", entries) {
		t.Errorf("dbsize: %q", n)
	}
	again := startRedis(ctx, t, freeAddr(t), s.dir)
	if a, b := s.redisDigest(ctx, t, server), s.redisDigest(ctx, t, again); a != b {
		t.Errorf("the copy's digest is %s, the source's %s", b, a)
	}

	heard := make(chan string, 8)
	spec := s.shell("exec redis-cli -h 127.0.0.1 -p 16379 subscribe events")
	spec.Lines = func(line string) { heard <- line }
	subscriber, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Kill()
	await := func(want string) {
		t.Helper()
		for {
			select {
			case line := <-heard:
				if line == want {
					return
				}
			case <-subscriber.Done():
				t.Fatal(subscriber.Failure("ended"))
			case <-ctx.Done():
				t.Fatal(subscriber.Failure("hears nothing"))
			}
		}
	}
	await("1") // subscribed
	out := s.run(ctx, t, "redis-benchmark -h 127.0.0.1 -p 16379 -c 50 -n 20000 -d 1000 -t set,get --csv")
	if strings.Count(out, "\n") != 3 || !strings.Contains(out, `"SET","`) || !strings.Contains(out, `"GET","`) {
		t.Errorf("redis-benchmark: %s", out)
	}
	s.run(ctx, t, "redis-cli -h 127.0.0.1 -p 16379 publish events 'it works'")
	await("it works")

	// 256 values of 1 MiB are more than what is buffered on the way.
	s.run(ctx, t, "redis-cli -h 127.0.0.1 -p 16379 debug populate 256 big 1048576")
	const copying = "exec redis-cli -h 127.0.0.1 --rdb - -p "
	s.cut(ctx, t, "connector killed", copying+"16379", huge, s.crash(ctx, t))
	failed(ctx, t, "connector killed", subscriber)
	s.cut(ctx, t, "server killed", copying+"26379", huge, server.kill)
	again.kill()

	server = startRedis(ctx, t, server.addr, t.TempDir())
	r, w := io.Pipe()
	spec = s.shell("exec redis-cli -h 127.0.0.1 -p 16379 --pipe")
	spec.Stdin = r
	filler, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Kill()
	defer func() { _ = r.Close() }()
	if _, err := w.Write(commands.Bytes()); err != nil {
		t.Fatal(err)
	}
	server.kill()
	go func() {
		_, _ = w.Write(commands.Bytes())
		_ = w.Close()
	}()
	failed(ctx, t, "server killed while it is filled", filler)
}
