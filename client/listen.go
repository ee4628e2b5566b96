package client

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Listen listens on a TCP address for a job's connections. They have SO_LINGER
// 0 from birth: if this process is killed, the job reads a reset and never an
// end that looks like the store's. Who can reach the port can reach the store
// with the job's rights, so a port on loopback serves every user of the machine.
func Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: func(network, address string, raw syscall.RawConn) error {
		return errors.Join(lingerZero(network, address, raw), bundle.BeginCongestion(network, address, raw))
	}}
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &Error{
			code: "listen-failed", hop: "config", message: "cannot listen on " + address, err: err,
			advice: "choose a free port, or port 0 for any",
		}
	}
	return ln.(*net.TCPListener), nil
}

// lingerZero sets SO_LINGER 0 on the listening socket; Linux hands it on to each
// accepted one.
func lingerZero(_, _ string, raw syscall.RawConn) (err error) {
	if failed := raw.Control(func(fd uintptr) { err = setLingerZero(fd) }); failed != nil {
		return failed
	}
	return err
}
