//go:build linux

package stores

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
)

const nginxConfig = `daemon off;
master_process off;
pid DIR/pid;
error_log stderr;
events { worker_connections 256; }
http {
  access_log off;
  client_max_body_size 0;
  client_body_temp_path DIR/tmp;
  proxy_temp_path DIR/tmp;
  fastcgi_temp_path DIR/tmp;
  uwsgi_temp_path DIR/tmp;
  scgi_temp_path DIR/tmp;
  server {
    listen PLAIN;
    listen SECURE ssl;
    ssl_certificate DIR/cert;
    ssl_certificate_key DIR/key;
    root DIR/files;
    location /put/ {
      dav_methods PUT;
      create_full_put_path on;
    }
  }
}
`

// startNginx starts a web server of one process. GET reads the files of the folder files, PUT writes them below put.
func startNginx(ctx context.Context, t *testing.T, plain, secure, dir string) *daemon {
	t.Helper()
	for _, name := range []string{"files", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := strings.NewReplacer("DIR", dir, "PLAIN", plain, "SECURE", secure).Replace(nginxConfig)
	if os.Geteuid() == 0 {
		config = "user root;\n" + config
	}
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return startDaemon(ctx, t, plain, proc.Spec{Path: "nginx", Args: []string{"-e", "stderr", "-p", dir, "-c", path}})
}

// ways are how curl gets to a store: by what comes before it.
var ways = map[string]string{
	"connect":  `export http_proxy="http://nightly-copy:$(cat token)@127.0.0.1:3128" proxy=--proxytunnel`,
	"absolute": `export http_proxy="http://nightly-copy:$(cat token)@127.0.0.1:3128"`,
	"https": `export https_proxy="https://nightly-copy:$(cat token)@relay.example.com" proxy="--cacert corp-ca.pem"
export url=https://intranet.corp.example:8443`,
	"https-connect":  `export http_proxy="https://nightly-copy:$(cat token)@relay.example.com" proxy=--proxytunnel`,
	"https-absolute": `export http_proxy="https://nightly-copy:$(cat token)@relay.example.com"`,
	"socks5":         `export ALL_PROXY="socks5h://nightly-copy:$(cat token)@127.0.0.1:1080"`,
	"forward":        `export url=http://127.0.0.1:18080`,
	"exec":           `run="ebbgate exec --"`,
}

// requests are what a web server must be able to do, and answers what curl then says.
const (
	requests = `
curl -sS $proxy -o got $url/export.csv -w '%{http_code} %{size_download}\n'
curl -sS $proxy -o missing $url/absent -w '%{http_code}\n'
curl -sS $proxy --fail -o /dev/null $url/absent 2>/dev/null || echo fails $?
curl -sS $proxy -I $url/export.csv -o head -w '%{http_code} %{size_download}\n'
tr -d '\r' < head | grep -i ^content-length
curl -sS $proxy -r 1000000-4999999 -o range $url/export.csv -w '%{http_code} %{size_download}\n'
curl -sS $proxy -T report.csv -H 'Expect: 100-continue' $url/put/waits-$way -w '%{http_code}\n'
curl -sS $proxy -T - -H 'Transfer-Encoding: chunked' $url/put/chunked-$way -w '%{http_code}\n' < report.csv
curl -sS $proxy -o one -o two $url/small $url/small -w 'connections %{num_connects}\n'
`
	answers = `200 20971525
404
fails 22
200 0
Content-Length: 20971525
206 4000000
201
201
connections 1
connections 0
`
)

// TestWeb reads and writes with curl, in every way in.
func TestWeb(t *testing.T) {
	ctx := need(t, map[string]string{"curl": "curl", "nginx": "nginx-light"})
	const (
		size            = 20<<20 + 5
		up, down, small = 41, 42, 43
	)
	dir, plain, secure := t.TempDir(), freeAddr(t), freeAddr(t)
	files := filepath.Join(dir, "files")
	endless := startEndless(t)
	s := newStage(ctx, t, "HTTP", "tls", map[string]string{"web": plain, "portal": secure, "endless": endless.addr})
	cert := filepath.Join(dir, "cert")
	if err := selfSigned("intranet.corp.example", cert, filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	s.run(ctx, t, "cp "+cert+" corp-ca.pem")
	server := startNginx(ctx, t, plain, secure, dir)
	write(t, filepath.Join(files, "export.csv"), down, size)
	write(t, filepath.Join(files, "small"), small, 100)
	s.write(t, "report.csv", up, size)
	s.play(ctx, t)
	verify(t, filepath.Join(s.dir, "export.csv"), down, size)
	verify(t, filepath.Join(s.dir, "portal.csv"), down, size)
	verify(t, filepath.Join(files, "put", "report.csv"), up, size)

	if err := os.WriteFile(filepath.Join(s.dir, "requests"), []byte(requests), 0o600); err != nil {
		t.Fatal(err)
	}
	for way, before := range ways {
		t.Run(way, func(t *testing.T) {
			before = "run= proxy= url=http://web.corp:8080 way=" + way + "; export proxy url way\n" + before
			if got := s.run(ctx, t, before+"\n$run sh -eu requests"); got != answers {
				t.Errorf("curl says:\n%swant:\n%s", got, answers)
			}
			verify(t, filepath.Join(s.dir, "got"), down, size)
			verify(t, filepath.Join(files, "put", "waits-"+way), up, size)
			verify(t, filepath.Join(files, "put", "chunked-"+way), up, size)
			verify(t, filepath.Join(s.dir, "two"), small, 100)
			want := make([]byte, 4_000_000)
			oracle.Fill(want, down, 1_000_000)
			if got, err := os.ReadFile(filepath.Join(s.dir, "range")); err != nil || string(got) != string(want) {
				t.Errorf("the range is not that of the file: %v", err)
			}
			reading := before + "; exec $run curl -sS --fail $proxy "
			if way != "forward" && way != "https" {
				// What ends with the connection: only a reset tells that it is not all.
				s.cut(ctx, t, "reset without a length", reading+"http://endless.corp:0/", 1<<40, endless.reset)
				s.cut(ctx, t, "connector killed without a length", reading+"http://endless.corp:0/", 1<<40, s.crash(ctx, t))
			}
			if way == "exec" {
				const hides = `exec ebbgate exec -- sh -c 'curl -sS http://endless.corp:0/ || true'`
				s.cut(ctx, t, "hidden by the command", hides, 1<<40, endless.reset)
			}
		})
	}
	sparse(t, filepath.Join(files, "big"), huge)
	const reading = "exec curl -sS --fail http://127.0.0.1:18080/big"
	s.cut(ctx, t, "connector killed", reading, huge, s.crash(ctx, t))
	s.cutUpload(ctx, t, filepath.Join(dir, "tmp", "*"))
	if _, err := os.Stat(filepath.Join(files, "put", "cut")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a copy that was cut, the server has a file: %v", err)
	}
	s.cut(ctx, t, "server killed", reading, huge, server.kill)
}

// cutUpload kills the connector while curl sends something without a length. Curl must fail, and the server must drop
// what it has in its temporary files.
func (s *stage) cutUpload(ctx context.Context, t *testing.T, temporary string) {
	t.Helper()
	spec := s.shell("exec curl -sS --fail --limit-rate 20M -T - http://127.0.0.1:18080/put/cut")
	spec.Stdin = oracle.NewReader(1, 1<<40)
	p, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	await := func(wanted bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for grown(t, temporary) != wanted {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal(p.Failure("is not noticed by the server"))
			}
		}
	}
	await(true)
	s.crash(ctx, t)()
	failed(ctx, t, "connector killed while it is written", p)
	await(false)
}

// endless is a web server whose only answer does not say how long it is, and ends with the connection.
type endless struct {
	addr  string
	mu    sync.Mutex
	conns []net.Conn
}

func startEndless(t *testing.T) *endless {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &endless{addr: ln.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.conns = append(e.conns, conn)
			e.mu.Unlock()
			serving.Go(func() { answer(conn) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		e.reset()
		serving.Wait()
	})
	return e
}

// answer answers a request until the connection ends.
func answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/csv\r\n\r\n"); err != nil {
		return
	}
	_, _ = oracle.NewReader(1, 1<<40).WriteTo(conn)
}

// reset resets its connections.
func (e *endless) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, conn := range e.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	e.conns = nil
}
