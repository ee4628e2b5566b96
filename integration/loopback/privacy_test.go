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
)

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
