package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/certs"
)

// explain names the hop of a failure, what was seen and what to do.
func (d *Dialer) explain(c Carrier, addr string, err error) error {
	var named interface {
		Hop() string
		Code() string
		Advice() string
	}
	if errors.As(err, &named) && named.Hop() != "" {
		return err
	}
	wrap := func(code, hop, advice, format string, args ...any) error {
		e := Errorf(code, hop, advice, format, args...)
		e.Err = err
		return e
	}
	var upgrade *UpgradeError
	var foreign *certs.VerifyError
	var pin *certs.PinError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &upgrade):
		hop, advice := "relay", "is this the address of an Ebbgate relay?"
		if _, through, err := d.proxied(c); err == nil && through {
			hop, advice = "proxy", "ask the network team to allow WebSocket (HTTP Upgrade) to the relay"
		}
		return wrap("upgrade-refused", hop, advice, "no WebSocket at %s: the answer was %.100q", addr, upgrade.Status)
	case errors.As(err, &pin):
		return foreignCertificate(wrap, addr, pin.Issuer)
	case errors.As(err, &foreign) && foreign.Foreign:
		return foreignCertificate(wrap, addr, foreign.Issuer)
	case errors.As(err, &foreign):
		return wrap("relay-certificate-invalid", "relay", "do this machine's clock and the relay's agree?", "the relay's certificate at %s: %v", addr, foreign.Err)
	case errors.As(err, &dns):
		return wrap("name-unresolved", "dns", "is the relay's name right, and does this machine's DNS know it?", "%s does not resolve: %v", d.Endpoint.Host, dns)
	case errors.Is(err, context.DeadlineExceeded) && c == QUIC, strings.Contains(fmt.Sprintf("%T", err), "HandshakeTimeoutError"):
		return wrap("udp-silent", "relay", "allow UDP to the relay's port, or leave it: TCP is used instead", "nothing came back over UDP from %s", addr)
	case errors.As(err, &op) && op.Op == "dial":
		return wrap("connection-failed", "tcp", "does a firewall between here and the relay allow this port?", "%s: %v", addr, op.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return wrap("handshake-timeout", "relay", "does something between here and the relay hold the connection back?", "%s: no TLS handshake within %v", addr, handshakeTimeout)
	}
	if number, alert := refusal(err); alert != nil {
		if number == alertNoProtocol || number == alertVersion {
			return wrap("tls-intercepted", hopInterception, "ask the network team to exempt the relay from TLS inspection; or is this not the address of an Ebbgate relay?",
				"what answers at %s does not speak the relay's TLS: %v", addr, alert)
		}
		return wrap("handshake-refused", "relay", "is this an Ebbgate relay, and is this machine still registered there?", "%s refused the handshake: %v", addr, alert)
	}
	return wrap("handshake-failed", "relay", "is this the address of an Ebbgate relay?", "%s: %v", addr, err)
}

// Alerts of servers that are no relay (RFC 8446 §6.2).
const (
	alertVersion    = 70
	alertNoProtocol = 120
)

// refusal is the number of the alert with which the peer ended a handshake, and
// the alert; nil: it sent none.
func refusal(err error) (number uint64, alert error) {
	var quic tls.AlertError
	if errors.As(err, &quic) {
		return uint64(quic), quic
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, nil
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 { // crypto/tls keeps the type to itself
		number = v.Uint()
	}
	return number, op.Err
}

// foreignCertificate tells another relay from a proxy that looks into TLS.
func foreignCertificate(wrap func(code, hop, advice, format string, args ...any) error, addr, issuer string) error {
	if strings.Contains(issuer, "Ebbgate CA ") {
		return wrap("relay-unknown", "relay", "use the key or token of this relay, or register this machine there", "%s is another relay than the one that the key, token or registration names (its certificate is of %q)", addr, issuer)
	}
	return wrap("tls-intercepted", hopInterception, "ask the network team to exempt the relay from TLS inspection", "the certificate at %s is not the relay's: it was issued by %q", addr, issuer)
}

// failure is one carrier's.
type failure struct {
	carrier Carrier
	err     error
}

// failures are all carriers'.
type failures []failure

func (f failures) err() error {
	slices.SortStableFunc(f, func(a, b failure) int {
		return cmp.Or(cmp.Compare(b.reached(), a.reached()), cmp.Compare(a.carrier.rank(), b.carrier.rank()))
	})
	return &DialError{f}
}

// hopInterception is where somebody looks into TLS.
const hopInterception = "tls-interception"

// hops are what a connection goes through, in order.
var hops = []string{"config", "dns", "tcp", "proxy", "proxy-auth", hopInterception, "relay", "registration"}

// reached says how far a carrier came. QUIC counts least: where UDP is silent,
// that says nothing about what else may be wrong.
func (f failure) reached() int {
	hopped, ok := errors.AsType[interface {
		error
		Hop() string
	}](f.err)
	if f.carrier == QUIC || !ok {
		return -1
	}
	return slices.Index(hops, hopped.Hop())
}

// DialError says what went wrong on each carrier. Code, Hop and Advice are of
// the one that came furthest.
type DialError struct{ failed failures }

func (e *DialError) Error() string {
	var parts []string
	for _, f := range e.failed {
		parts = append(parts, fmt.Sprintf("%s: %v", f.carrier, f.err))
	}
	return strings.Join(parts, "; ")
}

// Unwrap gives the failures.
func (e *DialError) Unwrap() (list []error) {
	for _, f := range e.failed {
		list = append(list, f.err)
	}
	return list
}

func (e *DialError) first() (first interface {
	Code() string
	Hop() string
	Advice() string
}, ok bool,
) {
	ok = len(e.failed) > 0 && errors.As(e.failed[0].err, &first)
	return first, ok
}

// Code names the failure.
func (e *DialError) Code() string {
	if first, ok := e.first(); ok {
		return first.Code()
	}
	return "dial-failed"
}

// Hop names where it happened.
func (e *DialError) Hop() string {
	if first, ok := e.first(); ok {
		return first.Hop()
	}
	return "relay"
}

// Advice says what to do.
func (e *DialError) Advice() string {
	if first, ok := e.first(); ok {
		return first.Advice()
	}
	return ""
}
