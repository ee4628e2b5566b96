package connector

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/proxycfg"
	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	watchEvery   = time.Minute
	watchTimeout = 5 * time.Second
	// watchPatience is how long the first dials wait to learn where the relay
	// and the proxy are.
	watchPatience = 2 * time.Second
)

// watch keeps the guards' addresses fresh until ctx ends. Behind a proxy the
// relay's name may not resolve here; then its name guards alone.
func (r *running) watch(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	looked := sync.OnceFunc(func() { close(r.looked) })
	for {
		changed := r.roster.Changed()
		r.lookAll(ctx, r.roster.All())
		looked()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

// lookAll looks where relays are, and the way to each.
func (r *running) lookAll(ctx context.Context, relays []tunnel.Endpoint) {
	var looks sync.WaitGroup
	for _, to := range relays {
		looks.Go(func() { r.look(ctx, to, r.set.Load().proxy) })
	}
	looks.Wait()
}

func (r *running) look(ctx context.Context, to tunnel.Endpoint, proxy *proxycfg.Proxy) {
	for _, port := range []int{to.TLSPort, to.HTTPPort} {
		if port != 0 {
			r.guard(ctx, config.SpecialRelay, to.Host, port)
		}
	}
	u, err := proxy.For(to.Host, to.TLSPort)
	if err != nil || u == nil {
		return
	}
	if port, err := strconv.Atoi(u.Port()); err == nil {
		r.guard(ctx, config.SpecialProxy, u.Hostname(), port)
	} else {
		r.guard(ctx, config.SpecialProxy, u.Hostname(), 80)
	}
}

func (r *running) guard(ctx context.Context, s config.Special, host string, port int) {
	r.guards.add(s, host, port)
	if _, ok := literal(host); ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, watchTimeout)
	defer cancel()
	addrs, err := r.cfg.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		r.logger.Debug("guard does not resolve", "host", host, "error", err)
		return
	}
	r.guards.add(s, host, port, addrs...)
}

// guardLink adds the address that a link was made to: the relay's, or the
// proxy's.
func (r *running) guardLink(link tunnel.Link, route *route) {
	tcp, ok := link.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	addr, ok := netip.AddrFromSlice(tcp.IP)
	if !ok {
		return
	}
	special, host := config.SpecialRelay, route.to.Host
	if u, err := route.proxy.For(route.to.Host, route.to.TLSPort); err == nil && u != nil {
		special, host = config.SpecialProxy, u.Hostname()
	}
	r.guards.add(special, host, tcp.Port, addr)
}
