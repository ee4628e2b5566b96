package connector

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/ebbgate/ebbgate/config"
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
	r.look(ctx, r.route())
	close(r.looked)
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			r.look(ctx, r.route())
		}
	}
}

func (r *running) look(ctx context.Context, route *route) {
	for _, port := range []int{route.to.TLS, route.to.HTTP} {
		if port != 0 {
			r.guard(ctx, config.SpecialRelay, route.to.Host, port)
		}
	}
	u, err := route.proxy.For(route.to.Host, route.to.TLS)
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
	if u, err := route.proxy.For(route.to.Host, route.to.TLS); err == nil && u != nil {
		special, host = config.SpecialProxy, u.Hostname()
	}
	r.guards.add(special, host, tcp.Port, addr)
}
