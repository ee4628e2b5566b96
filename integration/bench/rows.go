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
	"slices"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// row is a way from a job to the store.
type row struct {
	name  string
	start func(context.Context, *site) (*path, error)
}

// path is a row that is up.
type path struct {
	near  place // where the job is
	idle  int   // how many times the usual number of idle streams are measured
	way   way
	parts []part
	procs []*proc.Process

	relays []*rig.Relay
	after  []func() // when everything has ended
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
	{"forward-tls-8", lanes(8, ebbgate("tls", byForward))},
	{"forward-two", two},
	{"forward-tls-64", lanes(64, ebbgate("tls", byForward))},
}

// lanRows are those that are measured on loopback unless others are asked for.
var lanRows = []string{
	"direct", "naive", "ssh", "frp", "chisel", "connect-tls", "connect-quic", "connect-wss",
	"port-tls", "forward-tls", "forward-quic", "forward-wss",
}

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// barred are the rows whose idle streams have a bar.
var barred = []string{"port-tls", "forward-tls"}

// up starts a row.
func (r row) up(ctx context.Context, s site) (*path, error) {
	s.dir = filepath.Join(s.dir, r.name)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	p, err := r.start(ctx, &s)
	if err != nil {
		return nil, err
	}
	p.near, p.idle = s.near, 1
	if slices.Contains(barred, r.name) {
		p.idle = 10
	}
	return p, nil
}

// add takes over a process that is a part of the path.
func (p *path) add(name string, process *proc.Process) {
	p.parts = append(p.parts, part{name: name, pid: process.PID()})
	p.procs = append(p.procs, process)
}

// replace puts a process in the place of another, which has ended.
func (p *path) replace(old, process *proc.Process) {
	i := slices.Index(p.procs, old)
	p.procs[i], p.parts[i].pid = process, process.PID()
}

func (p *path) stop() {
	for i := len(p.procs) - 1; i >= 0; i-- {
		p.procs[i].Kill()
	}
	for _, f := range p.after {
		f()
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
	for _, end := range []struct {
		at         place
		role, part string
	}{{s.far, "naive-far", "node"}, {s.near, "naive-near", "relay"}} {
		in.Listen = end.at.addr
		process, addr, err := startRole(ctx, end.at, end.role, in)
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
GatewayPorts clientspecified
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
	dir := s.dir
	for _, key := range []string{"host", "user"} {
		if _, err := proc.Run(ctx, proc.Spec{
			Path: "ssh-keygen", Args: []string{"-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)},
		}); err != nil {
			return nil, err
		}
	}
	addrs, err := s.near.free(2)
	if err != nil {
		return nil, err
	}
	server, entry := addrs[0], addrs[1]
	config := strings.NewReplacer("ADDR", server, "DIR", dir).Replace(sshdConfig)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	p := &path{way: way{Addr: entry}}
	if err := p.serve(ctx, s.near, "relay", s.near, server, sshd, "-D", "-e", "-f", filepath.Join(dir, "sshd_config")); err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(server)
	return p, p.serve(ctx, s.far, "node", s.near, entry, "ssh", "-N", "-R", entry+":"+s.store, "-p", port, "-i", filepath.Join(dir, "user"),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-F", "none", me.Username+"@"+host)
}

func startFRP(ctx context.Context, s *site) (*path, error) {
	for _, program := range []string{"frps", "frpc"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, &notRunError{"no " + program}
		}
	}
	addrs, err := s.near.free(2)
	if err != nil {
		return nil, err
	}
	server, client := filepath.Join(s.dir, "frps.toml"), filepath.Join(s.dir, "frpc.toml")
	frps, frpc := frpConfigs(addrs[0], addrs[1], s.store)
	for file, config := range map[string]string{server: frps, client: frpc} {
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
	}
	p := &path{way: way{Addr: addrs[1]}}
	if err := p.serve(ctx, s.near, "relay", s.near, addrs[0], "frps", "-c", server); err != nil {
		return nil, err
	}
	return p, p.serve(ctx, s.far, "node", s.near, addrs[1], "frpc", "-c", client)
}

// frpConfigs are the server's and the client's: one TCP proxy, and everything else as frp has it by default.
func frpConfigs(server, entry, store string) (frps, frpc string) {
	serverHost, serverPort, _ := net.SplitHostPort(server)
	entryHost, entryPort, _ := net.SplitHostPort(entry)
	storeHost, storePort, _ := net.SplitHostPort(store)
	frps = fmt.Sprintf("bindAddr = %q\nbindPort = %s\nproxyBindAddr = %q\n", serverHost, serverPort, entryHost)
	frpc = fmt.Sprintf("serverAddr = %q\nserverPort = %s\n\n[[proxies]]\nname = \"store\"\ntype = \"tcp\"\n"+
		"localIP = %q\nlocalPort = %s\nremotePort = %s\n", serverHost, serverPort, storeHost, storePort, entryPort)
	return frps, frpc
}

func startChisel(ctx context.Context, s *site) (*path, error) {
	if _, err := exec.LookPath("chisel"); err != nil {
		return nil, &notRunError{"no chisel"}
	}
	addrs, err := s.near.free(2)
	if err != nil {
		return nil, err
	}
	server, client := chiselArgs(addrs[0], addrs[1], s.store)
	p := &path{way: way{Addr: addrs[1]}}
	if err := p.serve(ctx, s.near, "relay", s.near, addrs[0], "chisel", server...); err != nil {
		return nil, err
	}
	return p, p.serve(ctx, s.far, "node", s.near, addrs[1], "chisel", client...)
}

func chiselArgs(server, entry, store string) (serverArgs, clientArgs []string) {
	host, port, _ := net.SplitHostPort(server)
	return []string{"server", "--reverse", "--host", host, "--port", port},
		[]string{"client", "http://" + server, "R:" + entry + ":" + store}
}

// serve starts a part somewhere and waits until an address accepts connections, which it or another part serves.
func (p *path) serve(ctx context.Context, at place, name string, where place, addr, program string, args ...string) error {
	process, err := proc.Start(proc.Spec{Path: program, Args: args, Where: at.where})
	if err != nil {
		p.stop()
		return err
	}
	p.add(name, process)
	if err := listens(ctx, process, where, addr); err != nil {
		p.stop()
		return err
	}
	return nil
}

// listens waits until an address accepts connections.
func listens(ctx context.Context, process *proc.Process, where place, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := where.Dial(ctx, "tcp", addr)
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
