package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// The accounts of the domain CORP (CORP.TEST).
const (
	User     = "svc-ebbgate"
	Password = "Alice-Passw0rd"
	// UmlautUser has a name and a password outside ASCII.
	UmlautUser     = "pässw"
	UmlautPassword = "Gr€en-Pässw0rd"
	// WrongUser exists to be used with wrong passwords.
	WrongUser = "careless"

	adminPassword = "Passw0rd!adm"
)

// sambaServices are added to the DC's configuration: no print spooler, no NetBIOS, NTLMv2 only, no forwarding of DNS
// to itself, and a log of each authentication.
const sambaServices = `[global]
	server services = s3fs, rpc, ldap, cldap, kdc, winbindd, dns
	disable netbios = yes
	load printers = no
	ntlm auth = ntlmv2-only
	log level = 0 auth_json_audit:3@/var/log/samba/auth.json
`

const sambaMember = `[global]
  workgroup = CORP
  realm = CORP.TEST
  security = ads
  netbios name = PROXY
  disable netbios = yes
  kerberos method = dedicated keytab
  dedicated keytab file = /var/lib/samba/proxy.keytab
  idmap config * : backend = tdb
  idmap config * : range = 100000-199999
  winbind offline logon = no
  winbind reconnect delay = 1
  load printers = no
`

// systemPython is the interpreter that has Samba's modules; another one may come first in PATH.
const systemPython = "/usr/bin/python3"

// newUsers makes accounts straight in the directory's database, before the DC runs: three runs of samba-tool take
// three seconds.
const newUsers = `
import sys
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB
lp = LoadParm()
lp.load_default()
db = SamDB(url=lp.samdb_url(), session_info=system_session(), lp=lp)
for name, password in (line.rstrip("\n").split("\t") for line in sys.stdin.buffer.read().decode().splitlines()):
    db.newuser(name, password)
`

// startDC makes the domain and starts its controller.
func (l *Lab) startDC(ctx context.Context) error {
	if _, err := l.DC.Run(ctx, "", "samba-tool", "domain", "provision", "--realm=CORP.TEST", "--domain=CORP",
		"--host-name=dc1", "--host-ip="+dcAddr, "--server-role=dc", "--dns-backend=SAMBA_INTERNAL",
		"--adminpass="+adminPassword, "--option=interfaces=lo eth0", "--option=bind interfaces only=yes"); err != nil {
		return err
	}
	conf := filepath.Join(l.DC.dir, "etc/samba/smb.conf")
	made, err := os.ReadFile(conf)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := l.DC.write("etc/samba/smb.conf", dcConfig(string(made))); err != nil {
		return err
	}
	accounts := fmt.Sprintf("%s\t%s\n%s\t%s\n%s\t%s\n", User, Password, UmlautUser, UmlautPassword, WrongUser, Password)
	if _, err := l.DC.Run(ctx, accounts, systemPython, "-c", newUsers); err != nil {
		return err
	}
	p, err := l.DC.daemon(proc.Spec{Name: "samba", Path: "samba", Args: []string{"-F", "--no-process-group"}})
	if err != nil {
		return err
	}
	l.daemons.add(p)
	return l.DC.reachable(ctx, l.DC, p, 53, 88, 135, 389, 445, 3268)
}

// dcConfig adds sambaServices to the configuration that the provisioning made.
func dcConfig(made string) string {
	var conf strings.Builder
	for line := range strings.Lines(made) {
		if strings.Contains(line, "dns forwarder") {
			continue
		}
		if strings.TrimSpace(line) == "[global]" {
			line = sambaServices
		}
		conf.WriteString(line)
	}
	return conf.String()
}

// startMember joins the proxy to the domain and starts winbind there, which asks the DC on behalf of the Squids.
func (l *Lab) startMember(ctx context.Context) error {
	if err := l.Proxy.write("etc/samba/smb.conf", sambaMember); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(l.Proxy.dir, "var/lib/samba/private"), 0o700); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if _, err := l.Proxy.Run(ctx, "", "net", "ads", "join", "-U", "Administrator%"+adminPassword, "--no-dns-updates"); err != nil {
		return err
	}
	p, err := l.Proxy.daemon(proc.Spec{Name: "winbindd", Path: "winbindd", Args: []string{"-F", "--no-process-group"}})
	if err != nil {
		return err
	}
	l.daemons.add(p)
	// Squid's helpers run as user proxy.
	_, gid, err := account("proxy")
	if err != nil {
		return err
	}
	state := filepath.Join(l.Proxy.dir, "var/lib/samba")
	privileged := filepath.Join(state, "winbindd_privileged")
	if err := appears(ctx, p, filepath.Join(l.Proxy.dir, "run/samba/winbindd/pipe"), privileged); err != nil {
		return err
	}
	if err := os.Chown(privileged, -1, gid); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := os.Chmod(state, 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return l.trusted(ctx)
}

// trusted waits until winbind can ask the DC. On a busy machine winbind may find the DC half started and believe for
// a while that it is offline; a question that was asked then stays unanswered.
func (l *Lab) trusted(ctx context.Context) error {
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := l.Proxy.Run(try, "", "wbinfo", "-t")
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// appears waits for files that a process makes.
func appears(ctx context.Context, p *proc.Process, files ...string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, file := range files {
		for {
			if _, err := os.Stat(file); err == nil {
				break
			}
			select {
			case <-tick.C:
			case <-p.Done():
				return p.Failure("ended")
			case <-ctx.Done():
				return p.Failure("did not make " + file)
			}
		}
	}
	return nil
}

// Authentication is one attempt to prove a password to the domain controller.
type Authentication struct {
	Account string
	Status  string // such as NT_STATUS_OK or NT_STATUS_WRONG_PASSWORD
	Service string // who asked, such as NETLOGON for a proxy
}

// Authentications returns all attempts that the domain controller has seen of an account, in their order.
func (l *Lab) Authentications(account string) ([]Authentication, error) {
	f, err := os.Open(filepath.Join(l.DC.dir, "var/log/samba/auth.json"))
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	defer func() { _ = f.Close() }()
	var all []Authentication
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var entry struct {
			Authentication *struct {
				Status  string `json:"status"`
				Client  string `json:"clientAccount"`
				Mapped  string `json:"mappedAccount"`
				Service string `json:"serviceDescription"`
			}
		}
		if json.Unmarshal(bytes.TrimSpace(lines.Bytes()), &entry) != nil || entry.Authentication == nil {
			continue
		}
		a := entry.Authentication
		if a.Client == account || a.Mapped == account {
			all = append(all, Authentication{Account: account, Status: a.Status, Service: a.Service})
		}
	}
	return all, nil
}
