//go:build linux

package stores

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
)

const postgresLib = "/usr/lib/postgresql/15/bin/"

// postgresAttr makes a program the user postgres', if this one is root's: the server wants it so.
func postgresAttr(t *testing.T, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
	err3 := os.Chown(dir, int(uid), int(gid))
	err4 := os.Chmod(filepath.Dir(dir), 0o755) // of t.TempDir, through which it must pass
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// startPostgres makes a database with the page's account in a folder, and starts its server.
func startPostgres(ctx context.Context, t *testing.T, addr, dir string) *daemon {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	attr := postgresAttr(t, dir)
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if _, err := proc.Run(ctx, proc.Spec{Path: postgresLib + "initdb", Dir: dir, Attr: attr, Args: []string{
		"-D", data, "-U", "reader", "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync",
	}}); err != nil {
		t.Fatal(err)
	}
	return startDaemon(ctx, t, addr, proc.Spec{Path: postgresLib + "postgres", Dir: dir, Attr: attr, Args: []string{
		"-D", data, "-p", port, "-c", "listen_addresses=" + host, "-c", "unix_socket_directories=" + dir, "-c", "fsync=off",
		"-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "dynamic_shared_memory_type=mmap",
	}})
}

// TestPostgres copies by pgx, in both directions, and by psql and pg_dump.
func TestPostgres(t *testing.T) {
	ctx := need(t, map[string]string{postgresLib + "postgres": "postgresql-15", "psql": "postgresql-client-15"})
	dir, addr := t.TempDir(), freeAddr(t)
	server := startPostgres(ctx, t, addr, dir)
	s := newStage(ctx, t, "PostgreSQL", "quic", map[string]string{"pg": addr})
	if err := os.WriteFile(filepath.Join(s.dir, "pgpass"), []byte("*:*:*:reader:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dialer := newDialer(t)
	config, err := pgx.ParseConfig("postgres://reader:secret@pg.corp:" + s.real["5432"] + "/postgres?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.DialFunc = dialer.DialContext
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }

	db := stdlib.OpenDB(*config)
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, "create database erp"); err != nil {
		t.Fatal(err)
	}
	config.Database = "erp"
	native, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = native.Close(context.WithoutCancel(ctx)) }()
	if _, err := native.Exec(ctx, "create table parts (id bigint primary key, name text, body bytea)"); err != nil {
		t.Fatal(err)
	}
	const (
		rows = 40_000
		body = 400
	)
	in := pgx.CopyFromSlice(rows, func(i int) ([]any, error) {
		b := make([]byte, body)
		oracle.Fill(b, 61, int64(i)*body)
		return []any{int64(i), fmt.Sprintf("Teil %d ä€😀", i), b}, nil
	})
	if n, err := native.CopyFrom(ctx, pgx.Identifier{"parts"}, []string{"id", "name", "body"}, in); n != rows || err != nil {
		t.Fatalf("copied %d rows: %v", n, err)
	}
	s.play(ctx, t)
	var out bytes.Buffer
	if _, err := native.PgConn().CopyTo(ctx, &out, "copy parts to stdout with (format csv)"); err != nil {
		t.Fatal(err)
	}
	if csv, err := os.ReadFile(filepath.Join(s.dir, "parts.csv")); err != nil || !bytes.Equal(csv, out.Bytes()) {
		t.Errorf("psql and pgx read something else: %d bytes, %d bytes, %v", len(csv), out.Len(), err)
	}
	content := oracle.NewVerifier(61)
	found, err := native.Query(ctx, "select body from parts order by id")
	if err != nil {
		t.Fatal(err)
	}
	for found.Next() {
		if _, err := content.Write(found.RawValues()[0]); err != nil {
			t.Fatal(err)
		}
	}
	if err := found.Err(); err != nil || content.Len() != rows*body {
		t.Errorf("read %d bytes: %v", content.Len(), err)
	}
	if list := s.run(ctx, t, "pg_restore --list erp.dump"); !strings.Contains(list, "TABLE DATA public parts reader") {
		t.Errorf("the dump has: %s", list)
	}

	const (
		endless = "copy (select md5(i::text) from (select generate_series(1, 100000000) i) numbers) to stdout"
		reading = `export PGPASSFILE=pgpass; exec psql "host=127.0.0.1 port=25432 user=reader dbname=erp" -c "` + endless + `"`
	)
	s.cut(ctx, t, "connector killed", reading, huge, s.crash(ctx, t))
	s.cut(ctx, t, "server killed", reading, huge, server.kill)
}
