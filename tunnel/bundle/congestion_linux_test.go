package bundle

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wrapped is a connection above another.
type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// loopback is the two ends of a TCP connection.
func loopback(t *testing.T) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialled, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dialled.Close(), accepted.Close() })
	return dialled, accepted
}

func congestionOf(t *testing.T, conn net.Conn) (name string) {
	t.Helper()
	controlTCP(conn, func(fd int) {
		var err error
		if name, err = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION); err != nil {
			t.Fatal(err)
		}
	})
	return name
}

// On loopback, BBR gives way to Cubic, and what somebody else chose stays.
func TestCongestionOfAShortPath(t *testing.T) {
	for _, c := range []struct{ before, after string }{{"bbr", "cubic"}, {"reno", "reno"}, {"cubic", "cubic"}} {
		t.Run(c.before, func(t *testing.T) {
			job, store := loopback(t)
			controlTCP(job, func(fd int) {
				if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, c.before); err != nil {
					t.Skipf("SKIPPED: this kernel has no %s: %v", c.before, err)
				}
			})
			if _, err := job.Write([]byte("x")); err != nil { // its answer is a measured round trip
				t.Fatal(err)
			}
			if _, err := store.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			SettleCongestion(wrapped{wrapped{job}})
			if got := congestionOf(t, job); got != c.after {
				t.Errorf("%s became %q, want %q", c.before, got, c.after)
			}
		})
	}
}

// A socket that would begin with BBR begins with Cubic, and the connections of a listening one, too: no timer paces
// them on a short path.
func TestCongestionFromTheBeginning(t *testing.T) {
	begin := func(network, address string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
		})
		if err != nil {
			t.Skipf("SKIPPED: this kernel has no bbr: %v", err)
		}
		return BeginCongestion(network, address, raw)
	}
	l, err := (&net.ListenConfig{Control: begin}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := (&net.Dialer{Control: begin}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	for name, conn := range map[string]net.Conn{"dialled": dialled, "accepted": accepted} {
		if got := congestionOf(t, conn); got != "cubic" {
			t.Errorf("the %s connection has %s", name, got)
		}
	}
}
