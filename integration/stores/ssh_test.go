//go:build linux

package stores

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
)

const sshdConfig = `
ListenAddress HOST
Port PORT
HostKey DIR/host
AuthorizedKeysFile DIR/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp /usr/lib/openssh/sftp-server
`

// sshKeys makes the keys of a server and of a job, and tells each of the other's. The job works in the folder home.
func (s *stage) sshKeys(ctx context.Context, t *testing.T, dir string) {
	t.Helper()
	s.run(ctx, t, fmt.Sprintf(`
ssh-keygen -q -t ed25519 -N '' -f %[1]s/host
ssh-keygen -q -t ed25519 -N '' -f key
echo "sftp.corp.example $(cat %[1]s/host.pub)" > known_hosts
echo "command=\"cd %[1]s/home && eval \\\"\$SSH_ORIGINAL_COMMAND\\\"\" $(cat key.pub)" > %[1]s/authorized_keys`, dir))
}

// startSSH starts a server that lets this user in. Files of SFTP are in the folder home.
func startSSH(ctx context.Context, t *testing.T, addr, dir string) *daemon {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	config := strings.NewReplacer("HOST", host, "PORT", port, "DIR", dir).Replace(sshdConfig)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	const privileges = "/run/sshd" // which only root's server wants, and which its daemon makes when it is started
	if os.Geteuid() == 0 && os.Mkdir(privileges, 0o755) == nil {
		t.Cleanup(func() { _ = os.Remove(privileges) })
	}
	return startDaemon(ctx, t, addr, proc.Spec{Path: "/usr/sbin/sshd", Args: []string{"-D", "-e", "-f", filepath.Join(dir, "sshd_config")}})
}

// TestSSH puts and gets by sftp, and reads by ssh, with dial as their ProxyCommand and by a forward.
func TestSSH(t *testing.T) {
	ctx := need(t, map[string]string{"/usr/sbin/sshd": "openssh-server", "sftp": "openssh-client", "ssh-keygen": "openssh-client"})
	const (
		size     = 64<<20 + 3
		up, down = 31, 32
	)
	dir, addr := t.TempDir(), freeAddr(t)
	home := filepath.Join(dir, "home")
	write(t, filepath.Join(home, "export.csv"), down, size)
	s := newStage(ctx, t, "SFTP and SSH", "tls", map[string]string{"shell": addr})
	s.sshKeys(ctx, t, dir)
	server := startSSH(ctx, t, addr, dir)
	s.write(t, "report.csv", up, size)
	out := s.play(ctx, t)
	if !strings.Contains(out, oracle.Digest(up, size)+"  report.csv") {
		t.Errorf("ssh sha256sum: %s", out)
	}
	verify(t, filepath.Join(home, "report.csv"), up, size)
	verify(t, filepath.Join(s.dir, "export.csv"), down, size)

	sparse(t, filepath.Join(home, "big"), huge)
	if err := os.WriteFile(filepath.Join(s.dir, "batch"), []byte("get big\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.forward(ctx, t, "ebbgate forward corp/shell --listen 127.0.0.1:2222")
	const (
		dialed    = "-F ssh_config "
		forwarded = "-F ssh_config -o ProxyCommand=none -o HostName=127.0.0.1 -o HostKeyAlias=sftp.corp.example -o Port=2222 "
		reading   = "sftp.corp.example cat big"
		copying   = "-l 100000 -b batch sftp.corp.example" // 12.5 MB/s
	)
	s.cut(ctx, t, "connector killed", "exec ssh "+dialed+reading, huge, s.crash(ctx, t))
	s.cut(ctx, t, "server killed", "exec ssh "+forwarded+reading, huge, server.kill)
	server = startSSH(ctx, t, addr, dir)
	s.cutFile(ctx, t, "connector killed", "exec sftp "+forwarded+copying, "big", s.crash(ctx, t))
	if err := os.Remove(filepath.Join(s.dir, "big")); err != nil {
		t.Fatal(err)
	}
	s.cutFile(ctx, t, "server killed", "exec sftp "+dialed+copying, "big", server.kill)
}
