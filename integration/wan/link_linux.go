package wan

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Way is a direction of a link.
type Way int

// The ways.
const (
	ToFar Way = iota
	ToNear
)

// Link is a link that is up. Its methods are safe for concurrent use.
type Link struct {
	Near, Far *Side

	ways   [2]*forwarder
	stop   *os.File // closed: the forwarders end
	stopR  *os.File
	errs   [2]error // set before done
	done   sync.WaitGroup
	closed sync.Once
}

// Missing says why there can be no link here; nil: there can.
func Missing() error {
	if os.Geteuid() != 0 {
		return errors.New("wan: it needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("wan: it needs TUN devices: %w", err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return errors.New("wan: not installed: ip (Debian package iproute2)")
	}
	return nil
}

// Start brings up a link with the same shape both ways. It must be closed.
func Start(ctx context.Context, s Shape) (*Link, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	near, err := newSide(ctx, "near", "10.78.0.1", "10.78.0.3")
	if err != nil {
		return nil, err
	}
	far, err := newSide(ctx, "far", "10.78.0.2", "10.78.0.4")
	if err != nil {
		_ = unix.Close(near.tun)
		return nil, err
	}
	l := &Link{Near: near, Far: far}
	if l.stopR, l.stop, err = os.Pipe(); err != nil {
		return nil, errors.Join(fmt.Errorf("wan: %w", err), unix.Close(near.tun), unix.Close(far.tun))
	}
	start := time.Now()
	l.ways[ToFar] = &forwarder{from: near.tun, to: far.tun, stop: l.stopR, start: start, line: newLine(Seed, uint64(ToFar))}
	l.ways[ToNear] = &forwarder{from: far.tun, to: near.tun, stop: l.stopR, start: start, line: newLine(Seed, uint64(ToNear))}
	l.Shape(s)
	for i, f := range l.ways {
		l.done.Go(func() { l.errs[i] = f.run() })
	}
	return l, nil
}

// Shape sets the shape of both ways, from the next packet on.
func (l *Link) Shape(s Shape) {
	l.ShapeWay(ToFar, s)
	l.ShapeWay(ToNear, s)
}

// ShapeWay sets the shape of one way, from the next packet on.
func (l *Link) ShapeWay(w Way, s Shape) { l.ways[w].shape.Store(&s) }

// Cut cuts one way, or mends it. What travels there meanwhile is lost, without anybody being told.
func (l *Link) Cut(w Way, cut bool) { l.ways[w].cut.Store(cut) }

// CutBoth cuts both ways, or mends them.
func (l *Link) CutBoth(cut bool) {
	l.Cut(ToFar, cut)
	l.Cut(ToNear, cut)
}

// Congestion sets the congestion control that new TCP connections of both sides begin with.
func (l *Link) Congestion(name string) error {
	return errors.Join(l.Near.Congestion(name), l.Far.Congestion(name))
}

// Counts tells what a way has done so far.
func (l *Link) Counts(w Way) Counts { return l.ways[w].counts() }

// Close takes the link down. What runs on its sides goes on without a network.
func (l *Link) Close() error {
	var err error
	l.closed.Do(func() {
		_ = l.stop.Close()
		l.done.Wait()
		err = errors.Join(l.errs[0], l.errs[1], unix.Close(l.Near.tun), unix.Close(l.Far.tun), l.stopR.Close())
	})
	return err
}
