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
	"github.com/ebbgate/ebbgate/integration/rig"
)

const smbConfig = `[global]
  interfaces = HOST/8
  bind interfaces only = yes
  smb ports = PORT
  netbios name = files
  disable netbios = yes
  server role = standalone
  map to guest = never
  load printers = no
  disable spoolss = yes
  private dir = DIR/private
  state directory = DIR/state
  cache directory = DIR/cache
  lock directory = DIR/lock
  pid directory = DIR/pid
  ncalrpc dir = DIR/ncalrpc
  log file = DIR/log
  passdb backend = tdbsam:DIR/private/passdb.tdb
  smb encrypt = required
[export]
  path = DIR/share
  read only = no
`

// startSamba starts a file server whose share export is the folder share. Its account is this user's.
func (s *stage) startSamba(ctx context.Context, t *testing.T, addr, dir string) *daemon {
	t.Helper()
	for _, name := range []string{"private", "state", "cache", "lock", "pid", "ncalrpc", "share"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host, port, _ := strings.Cut(addr, ":")
	config := filepath.Join(dir, "smb.conf")
	text := strings.NewReplacer("HOST", host, "PORT", port, "DIR", dir).Replace(smbConfig)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run(ctx, t, fmt.Sprintf(`printf 'secret\nsecret\n' | pdbedit -s %[1]s -a -t -u "$(id -un)" > /dev/null
printf 'username = %%s\npassword = secret\n' "$(id -un)" > account`, config))
	return startDaemon(ctx, t, addr, proc.Spec{
		Path: "smbd", Args: []string{"--foreground", "--no-process-group", "--debug-stdout", "--configfile=" + config},
	})
}

// TestSamba puts and gets files. The store has a name, which the node resolves.
func TestSamba(t *testing.T) {
	ctx := need(t, map[string]string{"smbd": "samba", "pdbedit": "samba", "smbclient": "smbclient"})
	const (
		size     = 40<<20 + 1
		up, down = 51, 52
	)
	dir, addr := t.TempDir(), rig.FreePort(t)
	_, port, _ := strings.Cut(addr, ":")
	share := filepath.Join(dir, "share")
	write(t, filepath.Join(share, "export.csv"), down, size)
	s := newStage(ctx, t, "Windows shares (SMB)", "tls", map[string]string{"files": "localhost:" + port})
	server := s.startSamba(ctx, t, addr, dir)
	s.write(t, "report.csv", up, size)
	s.play(ctx, t)
	verify(t, filepath.Join(share, "report.csv"), up, size)
	verify(t, filepath.Join(s.dir, "export.csv"), down, size)
	verify(t, filepath.Join(s.dir, "copy.csv"), down, size)

	sparse(t, filepath.Join(share, "big"), huge)
	const reading = "exec smbclient //files.corp.example/export -I 127.0.0.1 -p 10445 -A account -c 'get big -'"
	s.cut(ctx, t, "connector killed", reading, huge, s.crash(ctx, t))
	exec := "exec ebbgate exec --store corp/files=127.0.0.1:20445 -- " + strings.Replace(reading[len("exec "):], "10445", "20445", 1)
	s.cut(ctx, t, "server killed", exec, huge, server.kill)
}
