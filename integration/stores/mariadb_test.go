//go:build linux

package stores

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// The account is the page's.
const grants = `create user if not exists reader@'%' identified by 'secret';
grant all on *.* to reader@'%';
create database if not exists erp;
`

// makeMariaDB makes empty databases with the page's account in folders.
func (s *stage) makeMariaDB(ctx context.Context, t *testing.T, dir, other string) {
	t.Helper()
	s.run(ctx, t, fmt.Sprintf(`mkdir %[1]s/data
mariadb-install-db --no-defaults --datadir=%[1]s/data --auth-root-authentication-method=normal --skip-test-db \
  --skip-name-resolve > made 2>&1 || { cat made; exit 1; }
cp -r %[1]s/data %[2]s/`, dir, other))
	for _, d := range []string{dir, other} {
		if err := os.WriteFile(filepath.Join(d, "grants"), []byte(grants), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// startMariaDB starts a server, whose files are not synced to disk.
func startMariaDB(ctx context.Context, t *testing.T, addr, dir string) *daemon {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	args := []string{
		"--no-defaults", "--datadir=" + filepath.Join(dir, "data"), "--socket=" + filepath.Join(dir, "socket"),
		"--bind-address=" + host, "--port=" + port, "--skip-name-resolve", "--pid-file=" + filepath.Join(dir, "pid"),
		"--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync",
		"--init-file=" + filepath.Join(dir, "grants"),
	}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	return startDaemon(ctx, t, addr, proc.Spec{Path: "mariadbd", Args: args})
}

// fill makes tables whose dump is longer than 50 MB and does not repeat itself.
const fill = `
create table parts (id bigint primary key, name varchar(80) character set utf8mb4 not null, price decimal(12,2), made datetime, body blob);
insert into parts select seq, concat('Teil ', md5(seq), ' ä€😀'), seq * 1.07, '2020-01-01' + interval seq second,
  unhex(concat(sha2(seq, 512), sha2(seq + 1, 512), sha2(seq + 2, 512), sha2(seq + 3, 512), sha2(seq + 4, 512), sha2(seq + 5, 512)))
  from seq_1_to_110000;
create table empty (id int);
create view dear as select id, name from parts where price > 100000;
`

// TestMariaDB dumps a database, restores it elsewhere, and compares.
func TestMariaDB(t *testing.T) {
	ctx := need(t, map[string]string{
		"mariadbd": "mariadb-server-core", "mariadb-install-db": "mariadb-server-core", "mariadb": "mariadb-client-core",
		"mariadb-dump": "mariadb-client",
	})
	dir, addr, otherDir, otherAddr := t.TempDir(), freeAddr(t), t.TempDir(), freeAddr(t)
	s := newStage(ctx, t, "MariaDB and MySQL", "tls", map[string]string{"erp": addr, "erp-copy": otherAddr})
	s.forward(ctx, t, "ebbgate forward corp/erp-copy --listen 127.0.0.1:13307")
	s.makeMariaDB(ctx, t, dir, otherDir)
	server := startMariaDB(ctx, t, addr, dir)
	startMariaDB(ctx, t, otherAddr, otherDir)
	if err := os.WriteFile(filepath.Join(s.dir, "fill.sql"), []byte(fill), 0o600); err != nil {
		t.Fatal(err)
	}
	direct := func(addr string) string {
		host, port, _ := strings.Cut(addr, ":")
		return fmt.Sprintf(" --no-defaults -h %s -P %s -u reader -psecret ", host, port)
	}
	s.run(ctx, t, "mariadb"+direct(addr)+"erp < fill.sql")
	s.play(ctx, t)
	if got := s.run(ctx, t, "cat count.txt"); got != "count(*)\n110000\n" {
		t.Errorf("the number of parts: %q", got)
	}
	if info, err := os.Stat(filepath.Join(s.dir, "erp.sql")); err != nil || info.Size() < 50e6 {
		t.Errorf("the dump is too short: %v, %v", info, err)
	}
	s.run(ctx, t, "mariadb --defaults-file=my.cnf --port=13307 erp < erp.sql")
	// Lines with -- name hosts and times.
	const digest = "erp | grep -v '^--' | sha256sum"
	want := s.run(ctx, t, "mariadb-dump"+direct(addr)+digest)
	for from, command := range map[string]string{
		"the dump":          "grep -v '^--' erp.sql | sha256sum",
		"what was restored": "mariadb-dump" + direct(otherAddr) + digest,
	} {
		if got := s.run(ctx, t, command); got != want {
			t.Errorf("the digest of %s is %s, want %s", from, got, want)
		}
	}

	// A table that is made while it is read. With a row of 30 bytes it is longer than everything that buffers.
	const reading = "exec mariadb-dump --defaults-file=my.cnf --no-create-info erp seq_1_to_100000000"
	s.cut(ctx, t, "connector killed", reading, huge, s.crash(ctx, t))
	s.cut(ctx, t, "server killed", reading, huge, server.kill)
}
