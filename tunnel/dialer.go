package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	// raceStagger is the time until the next carrier joins the race.
	raceStagger = 250 * time.Millisecond
	// raceGrace is how long a winner waits for a better carrier on TCP that is
	// under way: chance and load are no reason for a WebSocket.
	raceGrace = 2 * time.Second
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
	// Proxied tells whether connections to a port of the relay go through a proxy.
	// Where one does, only carriers through it are tried. nil: never.
	Proxied func(host string, port int) (bool, error)
	// Upgrade sends an upgrade request for a URL with http to the proxy, without
	// CONNECT, and gives the answer 101 and its connection; nil: there is no such
	// way.
	Upgrade func(req *http.Request) (*http.Response, net.Conn, error)
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

// usable are the carriers that can be tried at all. Where one port of the relay
// is behind a proxy, nothing goes around it to another.
func (d *Dialer) usable() ([]Carrier, error) {
	wanted := d.Carriers
	if len(wanted) == 0 {
		wanted = Carriers
	}
	var direct, proxied []Carrier
	_, behind, err := d.proxied(TLS)
	if err != nil {
		return nil, err
	}
	for _, c := range wanted {
		port, through, err := d.proxied(c)
		switch {
		case err != nil:
			return nil, err
		case port == 0:
		case through:
			proxied, behind = append(proxied, c), true
		default:
			direct = append(direct, c)
		}
	}
	if behind {
		direct = proxied
	}
	if len(direct) == 0 {
		return nil, Errorf("no-carrier", "relay", "allow another carrier: carriers: auto", "none of the carriers %v can reach %s%s", wanted, d.Endpoint.Host, map[bool]string{true: " through a proxy"}[behind])
	}
	return direct, nil
}

// proxied tells a carrier's port, and whether it is reached through a proxy.
func (d *Dialer) proxied(c Carrier) (port int, through bool, err error) {
	port = d.Endpoint.port(c)
	if d.Proxied == nil || port == 0 || c == QUIC {
		return port, false, nil
	}
	through, err = d.Proxied(d.Endpoint.Host, port)
	return port, through, err
}

// network names where this machine is, for the memory: the address that it uses
// towards the relay.
func (d *Dialer) network() string {
	port, proxied, err := d.proxied(TLS)
	if err == nil && proxied {
		return "proxied"
	}
	conn, err := net.Dial("udp", net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(port))) // sends nothing
	if err != nil {
		return "unknown"
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	return host
}

// failed tells the log about a carrier. That somebody looks into TLS, a person
// should know, also where another carrier works.
func (d *Dialer) failed(c Carrier, err error) {
	if coded, ok := errors.AsType[*Error](err); ok && coded.ErrHop == hopInterception {
		d.log().Info("TLS is intercepted on the way to the relay: another carrier is needed", "carrier", c, "code", coded.ErrCode, "error", err)
		return
	}
	d.log().Debug("carrier failed", "carrier", c, "error", err)
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
		d.failed(c, err)
		failed = append(failed, failure{c, err})
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed.err()
}
