package connector

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Resolver resolves names; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	// dialTimeout bounds a dial with all that belongs to it.
	dialTimeout = 10 * time.Second
	// attemptDelay is how long an address has before the next one is tried
	// beside it (RFC 8305 §5).
	attemptDelay = 250 * time.Millisecond
	// maxAttempts bounds how many addresses of a store are tried at once.
	maxAttempts = 8
	// maxAddresses bounds how many addresses of a name are looked at.
	maxAddresses = 1024
)

// dialer connects to stores. Its methods may be called from any goroutine.
type dialer struct {
	resolver Resolver
	guards   *guards
	timeout  time.Duration // of one dial; 0: dialTimeout
	// connect is replaced in tests; nil: TCP.
	connect func(ctx context.Context, st config.Store, to netip.AddrPort) (bundle.Socket, error)
}

// dial resolves a store's name, once, drops the addresses that the policy
// refuses and connects to one of the others. Its error is an *Error, or ctx's
// where that ended first.
func (d *dialer) dial(ctx context.Context, st config.Store) (bundle.Socket, error) {
	timeout := d.timeout
	if timeout == 0 {
		timeout = dialTimeout
	}
	inner, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sock, err := d.within(inner, st, timeout)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return sock, err
}

func (d *dialer) within(ctx context.Context, st config.Store, timeout time.Duration) (bundle.Socket, error) {
	if err := d.checkName(st); err != nil {
		return nil, err
	}
	addrs, err := d.resolve(ctx, st.Host)
	if err != nil {
		return nil, unresolved(st, err, timeout)
	}
	allowed, refused := d.sort(st, addrs)
	if len(allowed) == 0 {
		return nil, refusedAddresses(st, refused)
	}
	sock, misses := d.connectTo(ctx, st, allowed)
	if sock == nil {
		return nil, unreached(st, misses, timeout)
	}
	return sock, nil
}

// checkName refuses a store that has the name of the relay or the proxy.
func (d *dialer) checkName(st config.Store) error {
	for _, s := range d.guards.named(st.Host, st.Port) {
		if !slices.Contains(st.AllowSpecial, s) {
			return refusedName(st, s)
		}
	}
	return nil
}

// sort parts the addresses that may be dialled from those that the policy
// refuses.
func (d *dialer) sort(st config.Store, addrs []netip.Addr) (allowed []netip.AddrPort, refused []refusal) {
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, uint16(st.Port))
		if r, ok := check(st, d.guards, to); !ok {
			refused = append(refused, r)
		} else if !slices.Contains(allowed, to) {
			allowed = append(allowed, to)
		}
	}
	return allowed, refused
}

// connector gives what makes connections.
func (d *dialer) connector() func(context.Context, config.Store, netip.AddrPort) (bundle.Socket, error) {
	if d.connect != nil {
		return d.connect
	}
	return d.connectTCP
}

func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, ok := literal(host); ok {
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	}
	addrs = slices.Clone(addrs[:min(len(addrs), maxAddresses)])
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// interleave lets the families take turns, the one that the resolver put first
// first (RFC 8305 §4).
func interleave(list []netip.AddrPort) []netip.AddrPort {
	var first, second []netip.AddrPort
	for _, to := range list {
		if to.Addr().Is4() == list[0].Addr().Is4() {
			first = append(first, to)
		} else {
			second = append(second, to)
		}
	}
	mixed := make([]netip.AddrPort, 0, len(list))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			mixed = append(mixed, first[i])
		}
		if i < len(second) {
			mixed = append(mixed, second[i])
		}
	}
	return mixed
}

// miss is an address that was not reached, and why.
type miss struct {
	to  netip.AddrPort
	err error
}

// attempt is one address that is being dialled, and what came of it.
type attempt struct {
	miss
	stop     context.CancelFunc
	replaced bool // gave its place up
	sock     bundle.Socket
}

// connectTo connects to one of the addresses; without a socket, it tells what
// became of each.
func (d *dialer) connectTo(ctx context.Context, st config.Store, list []netip.AddrPort) (bundle.Socket, []miss) {
	if len(list) > 1 {
		return d.race(ctx, st, interleave(list))
	}
	sock, err := d.connector()(ctx, st, list[0])
	if err != nil {
		return nil, []miss{{list[0], err}}
	}
	return sock, nil
}

// race tries addresses in their order, the next one when the last one failed or
// has not answered for attemptDelay. Where more are under way than may be at
// once, the oldest gives its place up, so that many dead addresses do not hide
// one that is alive. The first to connect wins; the others are over when race
// returns.
func (d *dialer) race(ctx context.Context, st config.Store, list []netip.AddrPort) (bundle.Socket, []miss) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	results := make(chan *attempt, len(list))
	defer func() {
		cancel()
		wg.Wait()
		close(results)
		for late := range results {
			if late.sock != nil {
				_ = late.sock.Close()
			}
		}
	}()
	connect := d.connector()
	var misses []miss
	var running []*attempt // oldest first
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case r := <-results:
			if r.sock != nil {
				return r.sock, nil
			}
			running = slices.DeleteFunc(running, func(a *attempt) bool { return a == r })
			misses = append(misses, r.miss)
			if !r.replaced {
				next.Reset(0)
			}
		case <-next.C:
			if len(list) == 0 || ctx.Err() != nil {
				list = nil
				break
			}
			if len(running) >= maxAttempts {
				running[0].replaced = true
				running[0].stop()
			}
			one, stop := context.WithCancel(ctx)
			a := &attempt{miss: miss{to: list[0]}, stop: stop}
			list, running = list[1:], append(running, a)
			wg.Go(func() {
				defer stop()
				a.sock, a.err = connect(one, st, a.to)
				results <- a
			})
			next.Reset(attemptDelay)
		}
		if len(list) == 0 && len(running) == 0 {
			return nil, misses
		}
	}
}

// errChecked is a socket that was about to connect elsewhere than to the
// address that was checked.
var errChecked = errors.New("connector: BUG: the address is not the one that was checked")

// connectTCP dials exactly to. The socket has linger 0 before it connects, so
// that no way in which this process ends looks like a store's orderly end.
func (d *dialer) connectTCP(ctx context.Context, st config.Store, to netip.AddrPort) (bundle.Socket, error) {
	nd := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6},
		Control: func(_, address string, rc syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || at != to {
				return errChecked
			}
			if _, ok := check(st, d.guards, at); !ok {
				return errChecked
			}
			return errors.Join(setLingerZero(rc), bundle.BeginCongestion("tcp", address, rc))
		},
	}
	conn, err := nd.DialContext(ctx, "tcp", to.String()) // DialTCP binds, which takes a port from all other connections
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil // TCP_NODELAY is what net sets
}
