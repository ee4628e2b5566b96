package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// DialCarrier makes a link on one carrier.
func (d *Dialer) DialCarrier(ctx context.Context, c Carrier) (Link, error) {
	if c.rank() == len(Carriers) {
		return nil, Errorf("no-carrier", "config", "carriers are quic, tls, wss and ws", "there is no carrier %q", c)
	}
	addr := net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(d.Endpoint.port(c)))
	link, err := d.dialLink(ctx, c, addr)
	if err != nil {
		return nil, d.explain(c, addr, err)
	}
	return link, nil
}

func (d *Dialer) dialLink(ctx context.Context, c Carrier, addr string) (Link, error) {
	config := d.TLS().Clone()
	config.ServerName = serverName(d.Endpoint.Host)
	if c == QUIC {
		return DialQUIC(ctx, addr, config)
	}
	conn, err := d.dialPipe(ctx, c, addr)
	if err != nil {
		return nil, err
	}
	link, err := DialTLS(ctx, conn, config)
	if err != nil {
		return nil, d.tunnelled(addr, err)
	}
	return link, nil
}

// dialPipe makes what a link or a direct lane travels on: a TCP connection, or a
// WebSocket on one.
func (d *Dialer) dialPipe(ctx context.Context, c Carrier, addr string) (net.Conn, error) {
	conn, err := d.dialTCP(ctx, addr)
	if err == nil {
		conn, err = d.webSocket(ctx, c, conn)
	}
	if err != nil && c == WS && ctx.Err() == nil && answered(err) {
		conn, err = d.plainWebSocket(ctx, err)
	}
	return conn, err
}

// answered tells whether a failure is what a proxy said: one that was not
// reached, was silent or refused the account would be no better without CONNECT.
func answered(err error) bool {
	var named interface {
		Code() string
		Hop() string
	}
	if !errors.As(err, &named) {
		return true
	}
	return named.Code() != "proxy-timeout" && !slices.Contains([]string{"dns", "tcp", "proxy-auth"}, named.Hop())
}

// NodeLane makes a node's direct lane for a token of the relay: TLS with config,
// whose other end is the ingress that the token is for, in the relay or beyond
// it. Lanes for links on QUIC are TCP.
func (d *Dialer) NodeLane(ctx context.Context, c Carrier, token string, config *tls.Config) (*LaneConn, error) {
	conn, addr, err := d.directPipe(ctx, c)
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	config.ServerName = serverName(d.Endpoint.Host)
	config.NextProtos = []string{ALPNLane, token}
	lane, err := DialLane(ctx, conn, config)
	if err != nil {
		return nil, d.explain(c, addr, d.tunnelled(addr, err))
	}
	return lane, nil
}

// ClientLane makes a client's direct lane for a token of the relay: the client
// is the TLS server, for the node that the relay has come. express: it is for
// small frames.
func (d *Dialer) ClientLane(ctx context.Context, c Carrier, token string, express bool, config *tls.Config) (*LaneConn, error) {
	conn, _, err := d.directPipe(ctx, c)
	if err != nil {
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(handshakeTimeout))
	class := laneBulk
	if express {
		class = laneExpress
	}
	if _, err := io.WriteString(conn, clientLanePrefix+token+class); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tunnel: lane: %w", err)
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return ServeLane(ctx, conn, config)
}

// directPipe makes what a direct lane travels on beside a link on c.
func (d *Dialer) directPipe(ctx context.Context, c Carrier) (conn net.Conn, addr string, err error) {
	if c == QUIC {
		c = TLS
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	addr = net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(d.Endpoint.port(c)))
	if conn, err = d.dialPipe(ctx, c, addr); err != nil {
		return nil, addr, d.explain(c, addr, err)
	}
	return conn, addr, nil
}

func (d *Dialer) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	if d.DialTCP != nil {
		return d.DialTCP(ctx, "tcp", addr)
	}
	direct := net.Dialer{Timeout: handshakeTimeout, Control: bundle.BeginCongestion}
	return direct.DialContext(ctx, "tcp", addr)
}

// tunnelled puts the failure of the first exchange on a connection of DialTCP
// into words.
func (d *Dialer) tunnelled(addr string, err error) error {
	if d.Explain != nil {
		return d.Explain(addr, err)
	}
	return err
}

// webSocket makes of conn what a carrier's link is made on: a WebSocket where it
// is wss or ws. conn is closed if it fails.
func (d *Dialer) webSocket(ctx context.Context, c Carrier, conn net.Conn) (net.Conn, error) {
	if c == TLS {
		return conn, nil
	}
	if c == WSS {
		secured, err := d.outerTLS(ctx, conn)
		if err != nil {
			return nil, d.tunnelled(net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(d.Endpoint.TLSPort)), err)
		}
		conn = secured
	}
	return dialWebSocket(ctx, conn, d.authority(c))
}

// outerTLS is HTTPS as anybody speaks it. Its certificate is not verified: a
// proxy that looks into TLS shows its own, and the link has a TLS of its own in
// there.
func (d *Dialer) outerTLS(ctx context.Context, conn net.Conn) (*tls.Conn, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true} //nolint:gosec // see above
	if net.ParseIP(d.Endpoint.Host) == nil {
		config.ServerName = d.Endpoint.Host
	}
	secured := tls.Client(newRecordConn(conn), config)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

// plainWebSocket asks the proxy for a WebSocket where CONNECT to the HTTP port
// did not lead to one: proxies refuse it, or say yes and speak TLS themselves.
// failed is the failure where there is no such way.
func (d *Dialer) plainWebSocket(ctx context.Context, failed error) (net.Conn, error) {
	if _, through, err := d.proxied(WS); err != nil || !through || d.Upgrade == nil {
		return nil, failed
	}
	return upgradeWebSocket(ctx, d.authority(WS), func(req *http.Request) (*http.Response, net.Conn, io.Reader, error) {
		resp, conn, err := d.Upgrade(req)
		return resp, conn, conn, err
	})
}

// authority is the relay in a Host header and in a URL with http (RFC 3986
// §3.2).
func (d *Dialer) authority(c Carrier) string {
	port := d.Endpoint.port(c)
	if c == WSS && port == 443 || c == WS && port == 80 {
		if ip := net.ParseIP(d.Endpoint.Host); ip != nil && ip.To4() == nil {
			return "[" + d.Endpoint.Host + "]"
		}
		return d.Endpoint.Host
	}
	return net.JoinHostPort(d.Endpoint.Host, strconv.Itoa(port))
}

// serverName is the SNI: host names only (RFC 6066 §3).
func serverName(host string) string {
	if net.ParseIP(host) != nil {
		return "relay.invalid" // crypto/tls wants a name; nobody verifies it
	}
	return host
}
