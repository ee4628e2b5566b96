package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

const (
	// raceStagger is the time until the next carrier joins the race.
	raceStagger = 250 * time.Millisecond
	// secondChance is how long a carrier that worked here before has to work
	// again, when another one won: a relay that restarts is no reason to change.
	secondChance = 2 * time.Second
)

// CarrierMemory remembers which carrier worked in a network.
type CarrierMemory interface {
	Recall(network string) (Carrier, bool)
	Remember(network string, c Carrier)
}

// Dialer makes links to a relay. It is safe for concurrent use; its fields are
// not changed once it is used.
type Dialer struct {
	Endpoint Endpoint
	// Carriers are tried in this order, one after the other; empty is auto:
	// all of them, raced.
	Carriers []Carrier
	// TLS gives the configuration for the next handshake.
	TLS func() *tls.Config
	// DialTCP makes TCP connections, through a proxy where one is configured;
	// nil: directly.
	DialTCP func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxied tells whether connections to the relay go through a proxy. Then
	// only carriers that can are tried. nil: never.
	Proxied func(host string, port int) (bool, error)
	// Explain puts the failure of a handshake on a connection of DialTCP into
	// words; nil: as it is.
	Explain func(addr string, err error) error
	// Memory remembers the winner; nil: nobody does.
	Memory CarrierMemory
	// Logger takes each carrier's failure; nil discards.
	Logger *slog.Logger
}

func (d *Dialer) log() *slog.Logger {
	if d.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Logger
}

// Dial makes a link. Its error says for each carrier that was tried what went
// wrong, and names the hop.
func (d *Dialer) Dial(ctx context.Context) (Link, error) {
	carriers, err := d.usable()
	if err != nil {
		return nil, err
	}
	if len(d.Carriers) > 0 {
		return d.inTurn(ctx, carriers)
	}
	network := d.network()
	preferred, known := Carrier(""), false
	if d.Memory != nil {
		preferred, known = d.Memory.Recall(network)
		if i := slices.Index(carriers, preferred); known && i > 0 {
			carriers = append([]Carrier{preferred}, slices.Delete(slices.Clone(carriers), i, i+1)...)
		}
	}
	link, err := d.race(ctx, carriers)
	if err != nil {
		return nil, err
	}
	if known && link.Carrier().rank() > preferred.rank() && slices.Contains(carriers, preferred) {
		link = d.secondChance(ctx, link, preferred)
	}
	if d.Memory != nil && (!known || link.Carrier() != preferred) {
		d.Memory.Remember(network, link.Carrier())
	}
	return link, nil
}

// Better makes a link on a carrier better than current, if one works now; nil
// without an error: there is none to try.
func (d *Dialer) Better(ctx context.Context, current Carrier) (Link, error) {
	if len(d.Carriers) > 0 {
		return nil, nil
	}
	carriers, err := d.usable()
	if err != nil {
		return nil, err
	}
	carriers = slices.DeleteFunc(carriers, func(c Carrier) bool { return c.rank() >= current.rank() })
	if len(carriers) == 0 {
		return nil, nil
	}
	link, err := d.inTurn(ctx, carriers)
	if err == nil && d.Memory != nil {
		d.Memory.Remember(d.network(), link.Carrier())
	}
	return link, err
}

// usable are the carriers that can be tried at all.
func (d *Dialer) usable() ([]Carrier, error) {
	proxied := false
	if d.Proxied != nil {
		var err error
		if proxied, err = d.Proxied(d.Endpoint.Host, d.Endpoint.TLSPort); err != nil {
			return nil, err
		}
	}
	wanted := d.Carriers
	if len(wanted) == 0 {
		wanted = Carriers
	}
	var list []Carrier
	for _, c := range wanted {
		if c == QUIC && (proxied || d.Endpoint.QUICPort == 0) || c == TLS && d.Endpoint.TLSPort == 0 {
			continue
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, Errorf("no-carrier", "relay", "allow another carrier: carriers: auto", "none of the carriers %v can reach %s%s", wanted, d.Endpoint.Host, map[bool]string{true: " through a proxy"}[proxied])
	}
	return list, nil
}

// network names where this machine is, for the memory: the address that it uses
// towards the relay.
func (d *Dialer) network() string {
	port := d.Endpoint.TLSPort
	if d.Proxied != nil {
		if proxied, err := d.Proxied(d.Endpoint.Host, port); err == nil && proxied {
			return "proxied"
		}
	}
	conn, err := net.Dial("udp", net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(port))) // sends nothing
	if err != nil {
		return "unknown"
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	return host
}

// secondChance tries the preferred carrier once more and keeps the better link.
func (d *Dialer) secondChance(ctx context.Context, won Link, preferred Carrier) Link {
	ctx, cancel := context.WithTimeout(ctx, secondChance)
	defer cancel()
	link, err := d.DialCarrier(ctx, preferred)
	if err != nil {
		d.log().Info("another carrier is used now", "was", preferred, "is", won.Carrier(), "error", err)
		return won
	}
	_ = won.Close("the preferred carrier works")
	return link
}

// inTurn tries one carrier after the other.
func (d *Dialer) inTurn(ctx context.Context, carriers []Carrier) (Link, error) {
	var failed failures
	for _, c := range carriers {
		link, err := d.DialCarrier(ctx, c)
		if err == nil {
			return link, nil
		}
		failed = append(failed, failure{c, err})
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed.err()
}

// attempt is what became of one carrier in a race.
type attempt struct {
	carrier Carrier
	link    Link
	err     error
}

// race starts the carriers one after the other, the next one after raceStagger
// or when the last one failed; the first that is up wins, the others are ended.
func (d *Dialer) race(ctx context.Context, carriers []Carrier) (Link, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempt, len(carriers))
	running, next := 0, 0
	start := func() {
		if next == len(carriers) {
			return
		}
		c := carriers[next]
		next, running = next+1, running+1
		go func() {
			link, err := d.DialCarrier(ctx, c)
			results <- attempt{c, link, err}
		}()
	}
	// whoever comes in after the winner is closed, and waited for.
	defer func() {
		cancel()
		for ; running > 0; running-- {
			if a := <-results; a.link != nil {
				_ = a.link.Close("another carrier was faster")
			}
		}
	}()
	start()
	timer := time.NewTimer(raceStagger)
	defer timer.Stop()
	var failed failures
	for {
		select {
		case <-timer.C:
			start()
			timer.Reset(raceStagger)
		case a := <-results:
			running--
			if a.err == nil {
				return a.link, nil
			}
			d.log().Debug("carrier failed", "carrier", a.carrier, "error", a.err)
			failed = append(failed, failure{a.carrier, a.err})
			start()
			if running == 0 {
				return nil, failed.err()
			}
		}
	}
}

// DialCarrier makes a link on one carrier.
func (d *Dialer) DialCarrier(ctx context.Context, c Carrier) (Link, error) {
	switch c {
	case QUIC:
		return d.dialQUIC(ctx)
	case TLS:
		return d.dialTLS(ctx)
	}
	return nil, Errorf("no-carrier", "config", "carriers are quic and tls", "there is no carrier %q", c)
}

func (d *Dialer) dialTLS(ctx context.Context) (Link, error) {
	dial := d.DialTCP
	if dial == nil {
		dial = (&net.Dialer{Timeout: handshakeTimeout}).DialContext
	}
	addr := net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(d.Endpoint.TLSPort))
	conn, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, d.explain(TLS, addr, err)
	}
	config := d.TLS().Clone()
	config.ServerName = serverName(d.Endpoint.Host)
	link, err := DialTLS(ctx, conn, config)
	if err != nil {
		if d.Explain != nil {
			err = d.Explain(addr, err)
		}
		return nil, d.explain(TLS, addr, err)
	}
	return link, nil
}

func (d *Dialer) dialQUIC(ctx context.Context) (Link, error) {
	addr := net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(d.Endpoint.QUICPort))
	config := d.TLS().Clone()
	config.ServerName = serverName(d.Endpoint.Host)
	link, err := DialQUIC(ctx, addr, config)
	if err != nil {
		return nil, d.explain(QUIC, addr, err)
	}
	return link, nil
}

// serverName is the SNI: host names only (RFC 6066 §3).
func serverName(host string) string {
	if net.ParseIP(host) != nil {
		return "relay.invalid" // crypto/tls wants a name; nobody verifies it
	}
	return host
}

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
	var foreign *certs.VerifyError
	var pin *certs.PinError
	var dns *net.DNSError
	var op *net.OpError
	switch {
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
	var alert tls.AlertError
	if errors.As(err, &alert) {
		return wrap("handshake-refused", "relay", "is this an Ebbgate relay, and is this machine still registered there?", "%s refused the handshake: %v", addr, alert)
	}
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" {
		return wrap("handshake-refused", "relay", "is this an Ebbgate relay, and is this machine still registered there?", "%s refused the handshake: %v", addr, remote.Err)
	}
	return wrap("handshake-failed", "relay", "is this the address of an Ebbgate relay?", "%s: %v", addr, err)
}

// foreignCertificate tells another relay from a proxy that looks into TLS.
func foreignCertificate(wrap func(code, hop, advice, format string, args ...any) error, addr, issuer string) error {
	if strings.Contains(issuer, "Ebbgate CA ") {
		return wrap("relay-unknown", "relay", "use the key or token of this relay, or register this machine there", "%s is another relay than the one that the key, token or registration names (its certificate is of %q)", addr, issuer)
	}
	return wrap("tls-intercepted", "tls-interception", "ask the network team to exempt the relay from TLS inspection", "the certificate at %s is not the relay's: it was issued by %q", addr, issuer)
}

// failure is one carrier's.
type failure struct {
	carrier Carrier
	err     error
}

// failures are all carriers'.
type failures []failure

func (f failures) err() error {
	if len(f) == 1 {
		return &DialError{f}
	}
	// the last carrier is the one that gets furthest in bad networks: its
	// failure comes first
	slices.SortStableFunc(f, func(a, b failure) int { return b.carrier.rank() - a.carrier.rank() })
	return &DialError{f}
}

// DialError says what went wrong on each carrier. Code, Hop and Advice are of
// the one that most networks let through.
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
