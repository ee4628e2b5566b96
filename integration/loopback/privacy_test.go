package loopback

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestSecretsStayInside uses every kind of secret, rightly and wrongly, with all logs on, and looks for them in
// everything that the programs print and in their arguments.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	program := rig.Program{Path: binary, Flags: []string{"--log-level", "debug"}}
	relay, err := rig.StartRelay(ctx, program, rig.RelayOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, relay.Process, true)
	keys, err := relay.CreateGateway(ctx, corp)
	if err != nil {
		t.Fatal(err)
	}
	token, err := relay.CreateJob(ctx, job, corp+"/"+store)
	if err != nil {
		t.Fatal(err)
	}
	password := "canary-canary-canary"
	proxy := &basicProxy{}
	proxy.password.Store(&password)
	connector, err := rig.StartConnector(ctx, program, rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: relay.Address, Key: keys.Key1, Name: node,
		Proxy:  rig.Proxy{URL: "http://" + proxyAt(t, proxy.serve), Username: proxyUser, Password: password},
		Stores: []rig.Store{rig.Loopback(store, closedPort(t))},
	})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, connector.Process, false)
	if _, err := relay.Await(ctx, corp, node, rig.Online); err != nil {
		t.Fatal(err)
	}
	forward, err := rig.StartForward(ctx, program, rig.ForwardOptions{
		Dir: t.TempDir(), Relay: relay.Address, Token: token, Target: corp + "/" + store,
	})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, forward.Process, false)
	in := rig.Ingress{Addr: relay.Connect, Job: job, Token: token}
	wrong := in
	wrong.Job = "nobody"
	for _, in := range []rig.Ingress{in, wrong} {
		if conn, err := in.Dial(ctx, store+"."+corp+":0"); err == nil {
			_ = conn.Close()
			t.Error("dialled a store that is not there")
		} else if strings.Contains(err.Error(), token) {
			t.Errorf("the token stands in %v", err)
		}
	}
	if conn, err := dial(ctx, forward.Addr); err == nil {
		_, _ = conn.Read(make([]byte, 1)) // until it is reset
		_ = conn.Close()
	}
	other := proxyUser
	proxy.password.Store(&other)
	connector.Kill()
	if err := connector.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := connector.AwaitRefused(ctx); err != nil {
		t.Error(err)
	}
	secrets := map[string]string{
		"key1": keys.Key1[8:], "key2": keys.Key2[8:], "token": token[8:], "password": password,
	}
	for what, p := range map[string]interface {
		Output() string
		PID() int
	}{"relay": relay, "connector": connector, "forward": forward} {
		text := p.Output()
		if !strings.Contains(text, `"level":"`) {
			t.Errorf("%s logs nothing", what)
		}
		if line, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID()) + "/cmdline"); err == nil {
			text += string(line)
		}
		for name, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows %s", what, name)
			}
		}
	}
	for _, dir := range []string{relay.Dir, connector.Options.Dir} { // at rest, too, but for the password's own file
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || filepath.Base(path) == "proxy-password" {
				return err
			}
			body, err := os.ReadFile(path)
			for name, secret := range secrets {
				if strings.Contains(string(body), secret) {
					t.Errorf("%s holds %s", path, name)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestOutboundOnly looks for sockets on which a connector listens: there is none but its status socket.
func TestOutboundOnly(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("NOT RUN: /proc tells on Linux only")
	}
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	for _, carrier := range carriers {
		c := newCompany(ctx, t, carrier)
		if l := listening(t, c.connector.PID()); len(l) > 0 {
			t.Errorf("on carrier %s the connector listens on %q", carrier, l)
		}
		if l := listening(t, c.relay.PID()); len(l) < 2 { // the test can see sockets
			t.Errorf("the relay listens on %q", l)
		}
		var status json.RawMessage
		if err := c.connector.Program.Run(ctx, &status, "connector", "status", "--config", c.connector.Config); err != nil {
			t.Error(err)
		}
	}
}

// listening returns the TCP sockets of a process that listen.
func listening(t *testing.T, pid int) []string {
	t.Helper()
	const listen = "0A" // TCP_LISTEN
	dir := "/proc/" + strconv.Itoa(pid)
	mine := make(map[string]bool)
	fds, err := filepath.Glob(dir + "/fd/*")
	if err != nil || len(fds) == 0 {
		t.Fatalf("%v, %v", fds, err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil {
			mine[link] = true
		}
	}
	var found []string
	for _, table := range []string{"/net/tcp", "/net/tcp6"} {
		lines, err := os.ReadFile(dir + table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(lines)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == listen && mine["socket:["+f[9]+"]"] {
				found = append(found, f[1])
			}
		}
	}
	return found
}
