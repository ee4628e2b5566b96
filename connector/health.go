package connector

import (
	"context"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
)

// load is how busy the machine is.
type load struct {
	cpuPercent      float64 // of all cores, since the last look
	memoryAvailable uint64  // bytes
	networkIn       float64 // bytes/s, since the last look
	networkOut      float64
}

// health looks at the machine. What cannot be seen stays 0.
type health struct {
	mu sync.Mutex
	// guarded by mu
	at      time.Time
	last    load
	in, out uint64
}

// minLook is the least time between two looks, for figures that mean something.
const minLook = time.Second

// look gives the machine's load since the last look.
func (h *health) look(ctx context.Context) load {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if !h.at.IsZero() && now.Sub(h.at) < minLook {
		return h.last
	}
	var l load
	if v, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		l.memoryAvailable = v.Available
	}
	if p, err := cpu.PercentWithContext(ctx, 0, false); err == nil && len(p) == 1 {
		l.cpuPercent = p[0]
	}
	if all, err := net.IOCountersWithContext(ctx, false); err == nil && len(all) == 1 {
		if seconds := now.Sub(h.at).Seconds(); !h.at.IsZero() {
			l.networkIn = rate(h.in, all[0].BytesRecv, seconds)
			l.networkOut = rate(h.out, all[0].BytesSent, seconds)
		}
		h.in, h.out = all[0].BytesRecv, all[0].BytesSent
	}
	h.at, h.last = now, l
	return l
}

// rate is a counter's growth in a second; counters of interfaces that went away
// shrink.
func rate(before, after uint64, seconds float64) float64 {
	if after < before {
		return 0
	}
	return float64(after-before) / seconds
}
