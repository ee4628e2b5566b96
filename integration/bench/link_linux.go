package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebbgate/ebbgate/integration/wan"
)

// wanLink is the long way.
type wanLink struct{ *wan.Link }

// startLink brings it up.
func startLink(ctx context.Context) (*wanLink, error) {
	if err := wan.Missing(); err != nil {
		return nil, &notRunError{err.Error()}
	}
	l, err := wan.Start(ctx, wan.Long)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return &wanLink{l}, nil
}

// set makes the link as a condition says, and returns its ends.
func (l *wanLink) set(c condition) (near, far place, err error) {
	l.Shape(wan.Shape{Delay: c.RTT / 2, Rate: c.Rate, Loss: c.Loss})
	name := "cubic"
	if c.Congestion == defaultBBR {
		name = "bbr"
	}
	if err := l.Congestion(name); err != nil {
		return near, far, fmt.Errorf("bench: %w", err)
	}
	near = place{network: l.Near, where: l.Near, addr: l.Near.Addr(), second: l.Near.Second()}
	far = place{network: l.Far, where: l.Far, addr: l.Far.Addr(), second: l.Far.Second()}
	if c.Congestion == onlyCubic {
		near.where, far.where = l.Near.NoChoice(), l.Far.NoChoice()
	}
	return near, far, nil
}

// moved is how many bytes have travelled.
func (l *wanLink) moved() uint64 {
	return l.Counts(wan.ToFar).Bytes + l.Counts(wan.ToNear).Bytes
}

// spent is the CPU time that this process has used, which is the link's but for little.
func (l *wanLink) spent() time.Duration {
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func (l *wanLink) close() { _ = l.Close() }
