//go:build linux

package wan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// chooseEnv has the test binary choose a congestion control for a socket and print what the kernel says.
const chooseEnv = "EBBGATE_WAN_CHOOSE"

func TestMain(m *testing.M) {
	if name := os.Getenv(chooseEnv); name != "" {
		choose(name)
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/ebbgate/ebbgate/integration/proc.(*Thread).run"))
}

func choose(name string) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name)
	now, _ := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	fmt.Println(now, errors.Is(err, unix.ENOENT), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

// start brings up a link for a test.
func start(t *testing.T, s Shape) (*Link, context.Context) {
	t.Helper()
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	l, err := Start(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, ctx
}

// connect returns the two ends of a connection over the link.
func connect(ctx context.Context, t *testing.T, l *Link) (near, far net.Conn) {
	t.Helper()
	ln, err := l.Far.Listen("tcp", l.Far.Addr()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if near, err = l.Near.Dial(ctx, "tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(near.Close(), far.Close()) })
	return near, far
}

// TestLink sends a megabyte over a link that delays, narrows and loses: it arrives whole and never sooner than it can.
func TestLink(t *testing.T) {
	shape := Shape{Delay: 20 * time.Millisecond, Rate: 5e6, Loss: 0.02}
	l, ctx := start(t, shape)
	before := time.Now()
	near, far := connect(ctx, t, l)
	if trip := time.Since(before); trip < 2*shape.Delay {
		t.Errorf("connected after %v", trip)
	}
	content := bytes.Repeat([]byte("an ebb gate lets the tide out "), 1<<20/30)
	go func() {
		_, _ = near.Write(content)
		_ = near.Close()
	}()
	before = time.Now()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d of %d bytes arrived: %v", len(got), len(content), err)
	}
	if took, least := time.Since(before), time.Duration(float64(len(content))/shape.Rate*1e9)-shape.Delay; took < least {
		t.Errorf("%d bytes took %v, less than %v", len(content), took, least)
	}
	if c := l.Counts(ToFar); c.Lost == 0 || c.Packets < 700 || c.Bytes < uint64(len(content)) {
		t.Errorf("%+v", c)
	}
}

// TestCut cuts one way only: what the far side says still arrives, what the near side says only after the cut.
func TestCut(t *testing.T) {
	l, ctx := start(t, Shape{Delay: time.Millisecond})
	near, far := connect(ctx, t, l)
	l.Cut(ToFar, true)
	if _, err := near.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(near, b); err != nil || b[0] != '!' {
		t.Fatalf("%q, %v", b, err)
	}
	_ = far.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := far.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q came over a cut link: %v", b[:n], err)
	}
	l.Cut(ToFar, false)
	_ = far.SetReadDeadline(time.Time{})
	if _, err := io.ReadFull(far, b); err != nil || b[0] != '?' {
		t.Fatalf("%q, %v", b, err)
	}
	if c := l.Counts(ToFar); c.Cut == 0 {
		t.Errorf("%+v", c)
	}
}

// TestCongestion sets the default of the link's sides, which a process started by NoChoice cannot leave.
func TestCongestion(t *testing.T) {
	l, ctx := start(t, Shape{})
	machine, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err := l.Congestion("cubic"); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		where proc.Starter
		want  string // what the socket has then, whether the choice was refused, the answer to another option
	}{
		{"choice", l.Near, "reno false <nil>"},
		{"no choice near", l.Near.NoChoice(), "cubic true <nil>"},
		{"no choice far", l.Far.NoChoice(), "cubic true <nil>"},
	} {
		out, err := proc.Run(ctx, proc.Spec{Path: self, Env: []string{chooseEnv + "=reno", "GORACE=atexit_sleep_ms=0"}, Where: test.where})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(out)); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	if now, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); !bytes.Equal(now, machine) {
		t.Errorf("the machine's own became %s", now)
	}
}
