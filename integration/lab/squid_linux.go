package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// The account of the Squid with Basic authentication.
const (
	BasicUser     = "user"
	BasicPassword = "pa:ss w%rd"
)

// Kind names a kind of Squid.
type Kind string

// The kinds of Squid that the lab has.
const (
	Open      Kind = "open"       // asks nobody for a password
	Basic     Kind = "basic"      // Basic, against a file
	NTLM      Kind = "ntlm"       // NTLMv2, verified by the domain controller
	NTLMClose Kind = "ntlm-close" // the same, but closes the connection after the first 407
	Inspect   Kind = "inspect"    // looks into TLS, with a certificate of its own, and asks nobody for a password
)

const squidLib = "/usr/lib/squid/"

// kinds holds each kind's port, what its configuration says about authentication, and the rest of it. All but Open
// let WebSockets through.
var kinds = map[Kind]struct {
	port  int
	auth  string
	extra string
}{
	Open: {port: 3100},
	Basic: {3101, `auth_param basic program ` + squidLib + `basic_ncsa_auth DIR/basic.pw
auth_param basic realm corp
auth_param basic children 2`, upgrades},
	NTLM: {3104, `auth_param ntlm program /usr/bin/ntlm_auth --helper-protocol=squid-2.5-ntlmssp
auth_param ntlm children 5
auth_param ntlm keep_alive on`, upgrades},
	NTLMClose: {3109, `auth_param ntlm program /usr/bin/ntlm_auth --helper-protocol=squid-2.5-ntlmssp
auth_param ntlm children 5
auth_param ntlm keep_alive off`, upgrades},
	Inspect: {3110, "", upgrades + `
sslcrtd_program ` + squidLib + `security_file_certgen -s DIR/certificates -M 4MB
sslcrtd_children 2
tls_outgoing_options flags=DONT_VERIFY_PEER
sslproxy_cert_error allow all
acl hello at_step SslBump1
ssl_bump peek hello
ssl_bump bump all`},
}

const upgrades = "http_upgrade_request_protocols OTHER allow all"

// bumping is added to the port of a proxy that looks into TLS.
const bumping = " ssl-bump tls-cert=DIR/inspect.pem generate-host-certificates=on dynamic_cert_mem_cache_size=4MB"

const squidConf = `http_port LISTEN
visible_hostname ` + ProxyName + `
pid_filename DIR/KIND.pid
access_log stdio:DIR/KIND.access
buffered_logs off
cache_log DIR/KIND.log
cache_store_log none
cache deny all
cache_mem 8 MB
coredump_dir none
pinger_enable off
shutdown_lifetime 0 seconds
max_filedescriptors 4096
workers 1
via on
logfile_rotate 0
AUTH
EXTRA
acl SSL_ports port 443
acl CONNECT method CONNECT
http_access deny CONNECT !SSL_ports
acl Safe_ports port 80 443
http_access deny !CONNECT !Safe_ports
ACCESS
`

// Squid is a running proxy. CONNECT is allowed to port 443 only.
type Squid struct {
	Kind Kind
	// Addr is the proxy's host name and port, as corp knows it.
	Addr string

	lab     *Lab
	dir     string
	process *proc.Process
}

// Squid returns the proxy of a kind with which the lab was started; nil: none.
func (l *Lab) Squid(kind Kind) *Squid { return l.squids[kind] }

func (l *Lab) startSquid(ctx context.Context, kind Kind) error {
	s := &Squid{
		Kind: kind,
		Addr: fmt.Sprintf("%s:%d", ProxyName, kinds[kind].port),
		lab:  l,
		dir:  filepath.Join(l.Proxy.dir, "squid"),
	}
	if err := s.configure(ctx); err != nil {
		return err
	}
	l.squids[kind] = s
	return s.start(ctx)
}

// configure writes the proxy's files.
func (s *Squid) configure(ctx context.Context) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	uid, gid, err := account("proxy")
	if err != nil {
		return err
	}
	if err := os.Chown(s.dir, uid, gid); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	hash, err := s.lab.Proxy.Run(ctx, BasicPassword, "openssl", "passwd", "-apr1", "-stdin")
	if err != nil {
		return err
	}
	if err := s.lab.Proxy.write("squid/basic.pw", BasicUser+":"+hash); err != nil {
		return err
	}
	listen := fmt.Sprintf("%s:%d", proxyInside, kinds[s.Kind].port)
	if s.Kind == Inspect {
		listen += bumping
		if err := s.inspect(ctx, uid, gid); err != nil {
			return err
		}
	}
	access := "http_access allow all"
	if kinds[s.Kind].auth != "" {
		access = "acl authed proxy_auth REQUIRED\nhttp_access allow authed\nhttp_access deny all"
	}
	conf := strings.NewReplacer(
		"LISTEN", listen,
		"AUTH", kinds[s.Kind].auth,
		"EXTRA", kinds[s.Kind].extra,
		"ACCESS", access,
	).Replace(squidConf)
	conf = strings.NewReplacer("DIR", s.dir, "KIND", string(s.Kind)).Replace(conf)
	return s.lab.Proxy.write(s.conf(), conf)
}

// inspect makes the CA with which the proxy makes certificates, and the place where it keeps them.
func (s *Squid) inspect(ctx context.Context, uid, gid int) error {
	pem, db := filepath.Join(s.dir, "inspect.pem"), filepath.Join(s.dir, "certificates")
	if _, err := s.lab.Proxy.Run(ctx, "", "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
		"-subj", "/O=Corp/CN=Corp inspection CA", "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", pem, "-out", pem+".crt"); err != nil {
		return err
	}
	crt, err := os.ReadFile(pem + ".crt")
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	f, err := os.OpenFile(pem, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	_, err = f.Write(crt)
	if err := errors.Join(err, f.Close(), os.Chown(pem, uid, gid)); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if _, err := s.lab.Proxy.Run(ctx, "", squidLib+"security_file_certgen", "-c", "-s", db, "-M", "4MB"); err != nil {
		return err
	}
	return filepath.WalkDir(db, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, uid, gid))
	})
}

// conf is the configuration's path below the host's directory.
func (s *Squid) conf() string { return "squid/" + string(s.Kind) + ".conf" }

func (s *Squid) start(ctx context.Context) error {
	p, err := s.lab.Proxy.daemon(proc.Spec{
		Name: "squid " + string(s.Kind),
		Path: "squid",
		Args: []string{"-N", "-f", filepath.Join(s.lab.Proxy.dir, s.conf()), "-n", strings.ReplaceAll("eg"+string(s.Kind), "-", "")},
	})
	if err != nil {
		return err
	}
	s.process = p
	s.lab.daemons.add(p)
	if err := s.lab.Proxy.reachable(ctx, s.lab.Corp, p, kinds[s.Kind].port); err != nil {
		log, _ := os.ReadFile(filepath.Join(s.dir, string(s.Kind)+".log"))
		return errors.Join(err, fmt.Errorf("lab: squid's log: %s", log))
	}
	return nil
}

// Restart kills the proxy, with every connection through it, and starts it again.
func (s *Squid) Restart(ctx context.Context) error {
	s.process.Kill()
	if err := os.Remove(filepath.Join(s.dir, string(s.Kind)+".pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("lab: %w", err)
	}
	return s.start(ctx)
}

// Freeze has the proxy stand still for so long: connections stay open and nobody answers.
func (s *Squid) Freeze(ctx context.Context, d time.Duration) error {
	if err := s.process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	if err := s.process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return ctx.Err()
}

// Request is a line of the proxy's access log.
type Request struct {
	Result string // such as TCP_TUNNEL/200 or TCP_DENIED/407
	Method string
	Target string
	User   string // empty: none was proved
}

// Requests returns what the proxy's access log says so far. A tunnel is there once it has ended.
func (s *Squid) Requests() ([]Request, error) {
	log, err := os.ReadFile(filepath.Join(s.dir, string(s.Kind)+".access"))
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	var all []Request
	for line := range strings.Lines(string(log)) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		r := Request{Result: f[3], Method: f[5], Target: f[6], User: f[7]}
		if r.User == "-" {
			r.User = ""
		}
		all = append(all, r)
	}
	return all, nil
}
