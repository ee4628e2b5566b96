package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/ebbgate/ebbgate/integration/proc"
)

const postgresLib = "/usr/lib/postgresql/15/bin/"

// The account of the PostgreSQL servers.
const (
	PostgresUser     = "postgres"
	PostgresPassword = "Post-gr€s"
)

// Postgres is a running PostgreSQL 15 server.
type Postgres struct {
	Host *Host
	Port int
}

// Env returns the environment with which PostgreSQL's programs reach a server at an address, such as a tunnel's
// end.
func (p *Postgres) Env(host string, port int) []string {
	return []string{
		"PGHOST=" + host, fmt.Sprintf("PGPORT=%d", port), "PGUSER=" + PostgresUser, "PGPASSWORD=" + PostgresPassword,
		"PGDATABASE=postgres", "PGSSLMODE=disable", "PGCONNECT_TIMEOUT=30",
	}
}

// StartPostgres starts a server on a host. Its files are not synced to disk.
func (l *Lab) StartPostgres(ctx context.Context, h *Host, port int) (*Postgres, error) {
	uid, gid, err := account("postgres")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(h.dir, fmt.Sprintf("postgres-%d", port))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(PostgresPassword), 0o644); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	data := filepath.Join(dir, "data")
	if _, err := proc.Run(ctx, proc.Spec{
		Path: postgresLib + "initdb", Dir: dir, Where: h, Attr: attr,
		Args: []string{
			"-D", data, "-U", PostgresUser, "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync",
		},
	}); err != nil {
		return nil, err
	}
	hba := "host all all 0.0.0.0/0 scram-sha-256\nlocal all all scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o644); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	p, err := h.daemon(proc.Spec{
		Path: postgresLib + "postgres", Dir: dir, Attr: attr,
		Args: []string{
			"-D", data, "-p", fmt.Sprint(port),
			"-c", "listen_addresses=127.0.0.1," + h.addr, "-c", "unix_socket_directories=" + dir,
			"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_wal_size=4GB",
			"-c", "dynamic_shared_memory_type=mmap", "-c", "tcp_keepalives_idle=60",
		},
	})
	if err != nil {
		return nil, err
	}
	l.daemons.add(p)
	return &Postgres{Host: h, Port: port}, h.reachable(ctx, h, p, port)
}

// Nginx is a running web server. GET reads the files of Dir below /, PUT writes them below /put/.
type Nginx struct {
	Host *Host
	Port int
	Dir  string
}

const nginxConf = `daemon off;
worker_processes 1;
user root;
pid DIR/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  client_max_body_size 0;
  client_body_temp_path DIR/tmp;
  server {
    listen ADDR:PORT;
    root DIR/files;
    location /put/ {
      dav_methods PUT;
      create_full_put_path on;
    }
  }
}
`

// StartNginx starts a web server on a host.
func (l *Lab) StartNginx(ctx context.Context, h *Host, port int) (*Nginx, error) {
	dir := filepath.Join(h.dir, fmt.Sprintf("nginx-%d", port))
	n := &Nginx{Host: h, Port: port, Dir: filepath.Join(dir, "files")}
	for _, d := range []string{n.Dir, filepath.Join(dir, "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("lab: %w", err)
		}
	}
	conf := strings.NewReplacer("DIR", dir, "ADDR", h.addr, "PORT", fmt.Sprint(port)).Replace(nginxConf)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	p, err := h.daemon(proc.Spec{Path: "nginx", Args: []string{"-e", "stderr", "-p", dir, "-c", path}})
	if err != nil {
		return nil, err
	}
	l.daemons.add(p)
	return n, h.reachable(ctx, h, p, port)
}
