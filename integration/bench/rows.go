package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// row is a way from a job to the store.
type row struct {
	name  string
	start func(context.Context, *site) (*path, error)
}

// path is a row that is up.
type path struct {
	way   way
	parts []part
	procs []*proc.Process
}

// site is what all rows share.
type site struct {
	store    string // its address
	dir      string
	binary   string // ebbgate; empty: noBinary says why
	noBinary error
}

// notRunError says why a row cannot be measured here.
type notRunError struct{ why string }

func (e *notRunError) Error() string { return "not run: " + e.why }

var rows = []row{
	{"direct", startDirect},
	{"naive", startNaive},
	{"ssh", startSSH},
	{"frp", startFRP},
	{"chisel", startChisel},
	{"connect-tls", ebbgate("tls", byConnect)},
	{"connect-quic", ebbgate("quic", byConnect)},
	{"connect-wss", ebbgate("wss", byConnect)},
	{"port-tls", ebbgate("tls", byPort)},
	{"forward-tls", ebbgate("tls", byForward)},
	{"forward-quic", ebbgate("quic", byForward)},
	{"forward-wss", ebbgate("wss", byForward)},
}

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// add takes over a process that is a part of the path.
func (p *path) add(name string, process *proc.Process) {
	p.parts = append(p.parts, part{name: name, pid: process.PID()})
	p.procs = append(p.procs, process)
}

func (p *path) stop() {
	for i := len(p.procs) - 1; i >= 0; i-- {
		p.procs[i].Kill()
	}
}

func startDirect(_ context.Context, s *site) (*path, error) {
	return &path{way: way{Addr: s.store}}, nil
}

func startNaive(ctx context.Context, s *site) (*path, error) {
	in, err := newNaiveInput()
	if err != nil {
		return nil, err
	}
	p := &path{}
	in.Next = s.store
	for _, end := range []struct{ role, part string }{{"naive-far", "node"}, {"naive-near", "relay"}} {
		process, addr, err := startRole(ctx, end.role, in)
		if err != nil {
			p.stop()
			return nil, err
		}
		p.add(end.part, process)
		in.Next, in.Key = addr, nil // the near end needs the certificate only
	}
	p.way = way{Addr: in.Next}
	return p, nil
}

const sshdConfig = `ListenAddress ADDR
HostKey DIR/host
AuthorizedKeysFile DIR/user.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
PrintMotd no
LogLevel ERROR
`

// startSSH starts an sshd in the cloud's place and an `ssh -R` in the company's.
func startSSH(ctx context.Context, s *site) (*path, error) {
	sshd, err := exec.LookPath("sshd") // must be started by its whole path
	if err != nil {
		sshd, err = exec.LookPath("/usr/sbin/sshd")
	}
	if err != nil {
		return nil, &notRunError{"no sshd"}
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		return nil, &notRunError{"no ssh"}
	}
	me, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	if me.Uid == "0" { // sshd wants it, and the package makes it only when the service starts
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
	}
	dir := filepath.Join(s.dir, "ssh")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	for _, key := range []string{"host", "user"} {
		if _, err := proc.Run(ctx, proc.Spec{
			Path: "ssh-keygen", Args: []string{"-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)},
		}); err != nil {
			return nil, err
		}
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	server, entry := addrs[0], addrs[1]
	config := strings.NewReplacer("ADDR", server, "DIR", dir).Replace(sshdConfig)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	p := &path{way: way{Addr: entry}}
	if err := p.server(ctx, "relay", server, sshd, "-D", "-e", "-f", filepath.Join(dir, "sshd_config")); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(server)
	return p, p.client(ctx, "node", entry, "ssh", "-N", "-R", entry+":"+s.store, "-p", port, "-i", filepath.Join(dir, "user"),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-F", "none", me.Username+"@127.0.0.1")
}

func startFRP(ctx context.Context, s *site) (*path, error) {
	for _, program := range []string{"frps", "frpc"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, &notRunError{"no " + program}
		}
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	_, serverPort, _ := net.SplitHostPort(addrs[0])
	_, entryPort, _ := net.SplitHostPort(addrs[1])
	storeHost, storePort, _ := net.SplitHostPort(s.store)
	server, client := filepath.Join(s.dir, "frps.toml"), filepath.Join(s.dir, "frpc.toml")
	for file, config := range map[string]string{
		server: fmt.Sprintf("bindAddr = \"127.0.0.1\"\nbindPort = %s\nproxyBindAddr = \"127.0.0.1\"\n", serverPort),
		client: fmt.Sprintf("serverAddr = \"127.0.0.1\"\nserverPort = %s\n[[proxies]]\nname = \"store\"\ntype = \"tcp\"\n"+
			"localIP = %q\nlocalPort = %s\nremotePort = %s\n", serverPort, storeHost, storePort, entryPort),
	} {
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
	}
	p := &path{way: way{Addr: addrs[1]}}
	if err := p.server(ctx, "relay", addrs[0], "frps", "-c", server); err != nil {
		return nil, err
	}
	return p, p.client(ctx, "node", addrs[1], "frpc", "-c", client)
}

func startChisel(ctx context.Context, s *site) (*path, error) {
	if _, err := exec.LookPath("chisel"); err != nil {
		return nil, &notRunError{"no chisel"}
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(addrs[0])
	p := &path{way: way{Addr: addrs[1]}}
	if err := p.server(ctx, "relay", addrs[0], "chisel", "server", "--reverse", "--host", host, "--port", port); err != nil {
		return nil, err
	}
	return p, p.client(ctx, "node", addrs[1], "chisel", "client", "http://"+addrs[0], "R:"+addrs[1]+":"+s.store)
}

// server starts a part and waits until it listens.
func (p *path) server(ctx context.Context, name, addr, program string, args ...string) error {
	process, err := proc.Start(proc.Spec{Path: program, Args: args})
	if err != nil {
		p.stop()
		return err
	}
	p.add(name, process)
	if err := listens(ctx, process, addr); err != nil {
		p.stop()
		return err
	}
	return nil
}

// client starts a part that makes another one listen.
func (p *path) client(ctx context.Context, name, addr, program string, args ...string) error {
	return p.server(ctx, name, addr, program, args...)
}

// listens waits until an address accepts connections.
func listens(ctx context.Context, process *proc.Process, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-tick.C:
		case <-process.Done():
			return process.Failure("ended")
		case <-ctx.Done():
			return errors.Join(process.Failure("does not serve "+addr), err)
		}
	}
}

// freeAddrs returns loopback addresses whose ports were free a moment ago.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		defer func() { _ = ln.Close() }()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}
