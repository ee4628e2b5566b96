package proxycfg

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	connectTimeout = 10 * time.Second       // for all addresses of one host
	connectStagger = 250 * time.Millisecond // RFC 8305, section 5
	maxAddresses   = 16
)

// reach is how to find and dial addresses; tests replace it.
type reach struct {
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

// connect dials host by TCP, all its addresses in turn, and returns the first
// connection. network is tcp, tcp4 or tcp6.
func (r reach) connect(ctx context.Context, network, host, port string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else {
		addrs, err = r.lookup(ctx, strings.Replace(network, "tcp", "ip", 1), host)
		if err != nil {
			return nil, err
		}
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true}
	}
	addrs = interleave(addrs)
	return r.race(ctx, network, addrs[:min(len(addrs), maxAddresses)], port)
}

// interleave alternates the address families, the first address' family first
// (RFC 8305, section 4).
func interleave(addrs []netip.Addr) []netip.Addr {
	var families [2][]netip.Addr
	for _, a := range addrs {
		i := 0
		if a.Unmap().Is4() != addrs[0].Unmap().Is4() {
			i = 1
		}
		families[i] = append(families[i], a.Unmap())
	}
	mixed := make([]netip.Addr, 0, len(addrs))
	for i := range addrs {
		for _, f := range families {
			if i < len(f) {
				mixed = append(mixed, f[i])
			}
		}
	}
	return mixed
}

type dialled struct {
	turn int // the address' place in the list
	conn net.Conn
	addr string
	err  error
}

// race dials the addresses, each connectStagger after the one before or as soon
// as that one failed. It returns when all dials that it started have ended.
func (r reach) race(ctx context.Context, network string, addrs []netip.Addr, port string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialled)
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	var (
		running int
		winner  net.Conn
		failed  addressesError
	)
	for next := 0; running > 0 || winner == nil && next < len(addrs); {
		select {
		case <-stagger.C:
			if winner == nil && next < len(addrs) {
				go r.one(ctx, next, network, net.JoinHostPort(addrs[next].String(), port), results)
				next, running = next+1, running+1
				stagger.Reset(connectStagger)
			}
		case d := <-results:
			running--
			switch {
			case d.err != nil:
				failed = append(failed, d)
				stagger.Reset(0)
			case winner == nil:
				winner = d.conn
				cancel()
			default:
				_ = d.conn.Close()
			}
		}
	}
	if winner == nil {
		slices.SortFunc(failed, func(a, b dialled) int { return cmp.Compare(a.turn, b.turn) })
		return nil, failed
	}
	return winner, nil
}

// one is one dial of a race, which waits for its result.
func (r reach) one(ctx context.Context, turn int, network, addr string, results chan<- dialled) {
	conn, err := r.dial(ctx, network, addr)
	results <- dialled{turn, conn, addr, err}
}

// addressesError is why no address of a host could be reached. It is a
// [net.Error].
type addressesError []dialled

func (e addressesError) Error() string {
	said := make([]string, len(e))
	for i, d := range e {
		said[i] = d.addr + ": " + connectReason(d.err)
	}
	return strings.Join(said, "; ")
}

func (e addressesError) Unwrap() []error {
	errs := make([]error, len(e))
	for i, d := range e {
		errs[i] = d.err
	}
	return errs
}

// Timeout says whether time ran out on an address.
func (e addressesError) Timeout() bool {
	for _, d := range e {
		var ne net.Error
		if errors.As(d.err, &ne) && ne.Timeout() {
			return true
		}
	}
	return false
}

// Temporary is there for net.Error.
func (e addressesError) Temporary() bool { return false }

// connectReason is the part of a dial's error that a person needs.
func connectReason(err error) string {
	var ne net.Error
	var errno syscall.Errno
	switch {
	case isRefused(err):
		return "connection refused"
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &ne) && ne.Timeout():
		return "no answer"
	}
	return err.Error()
}

// isRefused says whether a connection was answered with a reset.
func isRefused(err error) bool {
	const wsaeconnrefused = syscall.Errno(10061)
	return errors.Is(err, syscall.ECONNREFUSED) ||
		runtime.GOOS == "windows" && errors.Is(err, wsaeconnrefused)
}
