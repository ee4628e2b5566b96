package main

import (
	"context"
	"fmt"
	"net"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// site is what all rows of a section share: where their parts run, and the store.
type site struct {
	near, far place  // the cloud and the company
	store     string // its address
	dir       string
	binary    string // ebbgate; empty: noBinary says why
	noBinary  error
	connector map[string]any // more keys of connector.yaml
}

// place is a network in which parts run.
type place struct {
	network
	where        proc.Starter // nil: this machine
	addr, second string       // without a port
}

// network is how this process reaches it.
type network interface {
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	Listen(network, addr string) (net.Listener, error)
}

// here is this machine's loopback.
var here = place{network: machine{}, addr: "127.0.0.1", second: "127.0.0.2"}

type machine struct{}

func (machine) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (machine) Listen(network, addr string) (net.Listener, error) { return net.Listen(network, addr) }

// free returns addresses of the place whose ports were free a moment ago.
func (p place) free(n int) ([]string, error) {
	var addrs []string
	for range n {
		ln, err := p.Listen("tcp", net.JoinHostPort(p.addr, "0"))
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		defer func() { _ = ln.Close() }()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}
