package relay

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// failure makes an error that names its code, its hop and what to do.
func failure(code, hop, advice, format string, args ...any) *tunnel.Error {
	return &tunnel.Error{ErrCode: code, ErrHop: hop, Message: fmt.Sprintf(format, args...), Advise: advice}
}

func listenError(key string, err error) error {
	advice := "choose another address for " + key
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = "another program listens there, perhaps another relay: stop it, or choose another address for " + key
	case errors.Is(err, syscall.EACCES):
		advice = "ports below 1024 need the capability CAP_NET_BIND_SERVICE: run as root, or choose a higher port for " + key
	}
	if key == "listen.http" {
		advice += `, or turn it off: listen: {http: ""}`
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return failure("listen-failed", "relay", advice, "%s: cannot listen on %v: %v", key, op.Addr, op.Err)
	}
	return failure("listen-failed", "relay", advice, "%s: %v", key, err)
}

// refusals says for each code of a node's refusal where it happened and what to
// do about it.
var refusals = map[bundle.Code]struct{ hop, advice string }{
	bundle.CodeStoreUnknown:     {"node", "declare the store in the connector's configuration"},
	bundle.CodeStoreNotAllowed:  {"node", "the store's jobs and ingress in the connector's configuration say who may dial it"},
	bundle.CodeStoreUnresolved:  {"store", "look at the store's address in the connector's configuration and at the node's DNS"},
	bundle.CodeStoreRefused:     {"store", "is the store running and listening on this port?"},
	bundle.CodeStoreTimeout:     {"store", "is there a firewall between the node and the store?"},
	bundle.CodeStoreUnreachable: {"store", "look at the node's routes to the store's network"},
	bundle.CodeAddressRefused:   {"node", "the node's policy refuses this address; allow_special in the connector's configuration lists exceptions"},
	bundle.CodeGrantInvalid:     {"node", "does the node's clock agree with the relay's? Is it registered at this relay?"},
	bundle.CodeGrantExpired:     {"node", "does the node's clock agree with the relay's?"},
	bundle.CodeNodeBusy:         {"node", "try again, or add nodes to the gateway"},
	bundle.CodeNodeDraining:     {"node", "try again; the node is stopping"},
}

// openError turns what opening a stream failed with into what the job reads.
func openError(store string, err error) error {
	var refused *bundle.RefusedError
	if errors.As(err, &refused) {
		r, ok := refusals[refused.Reason]
		if !ok {
			r.hop = "node"
		}
		text := refused.Text
		if text == "" {
			text = refused.Reason.String()
		}
		return failure(refused.Reason.String(), r.hop, r.advice, "%s: %s", store, text)
	}
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		return failure(coded.Code(), "node", "try again; the node's session ended during the dial", "%s: %v", store, err)
	}
	return err
}
