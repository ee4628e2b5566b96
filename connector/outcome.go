package connector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/config"
)

// Codes of dials that failed.
const (
	codeUnresolved  = "store-unresolved"
	codeRefused     = "store-refused"
	codeTimeout     = "store-timeout"
	codeUnreachable = "store-unreachable"
	codeAddress     = "address-refused"
	codeBusy        = "node-busy"
)

// maxShown bounds how many addresses a message names.
const maxShown = 4

func storeError(code string, cause error, advice, format string, args ...any) *Error {
	return &Error{code: code, hop: "store", message: fmt.Sprintf(format, args...), advice: advice, err: cause}
}

func address(st config.Store) string { return net.JoinHostPort(st.Host, strconv.Itoa(st.Port)) }

// unresolved is a store without an address.
func unresolved(st config.Store, err error, timeout time.Duration) *Error {
	var dns *net.DNSError
	found := errors.As(err, &dns)
	switch {
	case found && dns.IsNotFound:
		return storeError(codeUnresolved, err, "correct the store's address in the node's connector.yaml, or add the name to the DNS that the node uses",
			"store %s: the name %q does not exist for this node", st.Name, st.Host)
	case found && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return storeError(codeUnresolved, err, "see why the node's DNS servers are slow or unreachable",
			"store %s: the DNS did not answer for %q within %v", st.Name, st.Host, timeout)
	case found:
		return storeError(codeUnresolved, err, "see why the node's DNS servers fail",
			"store %s: the DNS answered for %q: %s", st.Name, st.Host, dns.Err)
	default:
		return storeError(codeUnresolved, err, "see why the node's DNS servers fail",
			"store %s: the name %q does not resolve: %v", st.Name, st.Host, err)
	}
}

// refusedName is a store that has the name of the relay or the proxy.
func refusedName(st config.Store, s config.Special) *Error {
	return storeError(codeAddress, nil, policyAdvice([]config.Special{s}),
		"store %s: %s is %s, which the node does not dial", st.Name, address(st), what[s])
}

// refusedAddresses is a store of which the policy leaves no address.
func refusedAddresses(st config.Store, refused []refusal) *Error {
	var classes []config.Special
	var shown []string
	for _, r := range refused {
		if !slices.Contains(classes, r.special) {
			classes = append(classes, r.special)
		}
		if len(shown) < maxShown {
			shown = append(shown, fmt.Sprintf("%s (%s)", r.addr, what[r.special]))
		}
	}
	return storeError(codeAddress, nil, policyAdvice(classes),
		"store %s: %s is %s%s, which the node does not dial", st.Name, address(st), strings.Join(shown, ", "), more(len(refused)))
}

func policyAdvice(classes []config.Special) string {
	names := make([]string, len(classes))
	for i, s := range classes {
		if !allowable(s) {
			return "correct the store's address in the node's connector.yaml"
		}
		names[i] = string(s)
	}
	return "correct the store's address in the node's connector.yaml, or, if it is meant, add allow_special: [" + strings.Join(names, ", ") + "] to the store there"
}

// unreached is a store of which no address answered. Where addresses failed in
// different ways, the one that says most names the outcome: a machine that
// refused is there, one that was silent may be.
func unreached(st config.Store, misses []miss, timeout time.Duration) *Error {
	by := make(map[string]error)
	var shown []string
	for _, f := range misses {
		code, seen := connectOutcome(f.err)
		if _, ok := by[code]; !ok {
			by[code] = f.err
		}
		if len(shown) < maxShown {
			shown = append(shown, fmt.Sprintf("%s %s", f.to, seen))
		}
	}
	list := strings.Join(shown, ", ") + more(len(misses))
	switch {
	case by[codeBusy] != nil:
		return &Error{
			code: codeBusy, hop: "node", err: by[codeBusy],
			message: fmt.Sprintf("store %s: the node could not make a connection: %s", st.Name, list),
			advice:  "raise the limit of open files of the connector's service, or run fewer copies at once on this node",
		}
	case by[codeRefused] != nil:
		return storeError(codeRefused, by[codeRefused], "see whether the store runs and listens on that port, and whether a firewall in front of it rejects the node",
			"store %s (%s): %s", st.Name, address(st), list)
	case len(misses) == 0 || by[codeTimeout] != nil:
		if list == "" {
			list = address(st) + " did not answer"
		}
		return storeError(codeTimeout, by[codeTimeout], "see whether the store is up and whether a firewall between the node and it drops connections",
			"store %s (%s): %s within %v", st.Name, address(st), list, timeout)
	default:
		return storeError(codeUnreachable, by[codeUnreachable], "see whether the node's network has a route to the store",
			"store %s (%s): %s", st.Name, address(st), list)
	}
}

// connectOutcome says what became of a connect, as a code and in words.
func connectOutcome(err error) (code, seen string) {
	var timeout net.Error
	switch {
	case errors.Is(err, errRefused):
		return codeRefused, "refused the connection"
	case errors.Is(err, errReset):
		return codeRefused, "reset the connection"
	case errors.Is(err, errNoSockets), errors.Is(err, errSystemFull):
		return codeBusy, "needs a socket and the node has none left"
	case errors.Is(err, errNoLocalPort):
		return codeBusy, "needs a local port and the node has none left"
	case errors.Is(err, errTimedOut), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.As(err, &timeout) && timeout.Timeout():
		return codeTimeout, "did not answer"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return codeUnreachable, "is not reachable: " + err.Error()
}

func more(n int) string {
	if n <= maxShown {
		return ""
	}
	return fmt.Sprintf(" and %d more", n-maxShown)
}
