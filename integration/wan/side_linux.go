package wan

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/ebbgate/ebbgate/integration/lab"
	"github.com/ebbgate/ebbgate/integration/proc"
)

// Side is one of the two networks. It implements proc.Starter; its methods are safe for concurrent use.
type Side struct {
	*lab.Host
	addr, second string
	tun          int // the device

	noChoice *proc.Thread
}

// device is the name of the TUN device on each side.
const device = "wan0"

func newSide(ctx context.Context, name, addr, second string) (*Side, error) {
	host, err := lab.NewHost("", name, nil)
	if err != nil {
		return nil, fmt.Errorf("wan: %w", err)
	}
	s := &Side{Host: host, addr: addr, second: second}
	host.Do(func() { s.tun, err = openTUN() })
	if err != nil {
		return nil, err
	}
	// What the device cannot hold is lost before the link sees it.
	batch := "addr add " + addr + "/24 dev " + device + "\naddr add " + second + "/24 dev " + device + "\nlink set " + device + " mtu 1500 txqueuelen 10000 up\n"
	if _, err := host.Run(ctx, batch, "ip", "-batch", "-"); err != nil {
		_ = unix.Close(s.tun)
		return nil, err
	}
	var network *os.File
	host.Do(func() { network, err = os.Open("/proc/thread-self/ns/net") })
	if err == nil {
		s.noChoice, err = proc.NewThread(func() error { return enterNoChoice(network) })
		_ = network.Close()
	}
	if err != nil {
		_ = unix.Close(s.tun)
		return nil, fmt.Errorf("wan: %w", err)
	}
	return s, nil
}

// openTUN makes a TUN device in the calling thread's network.
func openTUN() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("wan: /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("wan: TUN device: %w", err)
	}
	return fd, nil
}

// enterNoChoice prepares a thread of the network whose children cannot choose a congestion control.
func enterNoChoice(network *os.File) error {
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return refuseCongestion()
}

// Addr returns the side's address, without a port.
func (s *Side) Addr() string { return s.addr }

// Second returns another address of the side, for what has to be at two.
func (s *Side) Second() string { return s.second }

// Congestion sets the congestion control that new TCP connections of this side begin with.
func (s *Side) Congestion(name string) (err error) {
	s.Do(func() { err = os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(name), 0) })
	if err != nil {
		return fmt.Errorf("wan: congestion control %s: %w", name, err)
	}
	return nil
}

// NoChoice starts processes on this side that cannot choose a congestion control for their sockets: the kernel
// answers that it knows none, and they live with what Congestion has set.
func (s *Side) NoChoice() proc.Starter { return noChoice{s.noChoice} }

type noChoice struct{ thread *proc.Thread }

func (n noChoice) Start(cmd *exec.Cmd) error { return n.thread.Start(cmd) }
