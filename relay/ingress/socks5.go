package ingress

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Socks5 is a SOCKS 5 server (RFC 1928) that asks for the job's name and token
// (RFC 1929) and connects to stores by name. BIND and UDP are refused.
type Socks5 struct{ door }

// NewSocks5 makes the server; it listens on nothing.
func NewSocks5(dialer Dialer, logger *slog.Logger, metrics *Metrics) *Socks5 {
	return &Socks5{door: newDoor(dialer, logger, metrics)}
}

// Bytes of the protocol.
const (
	socksVersion    = 5
	socksPassword   = 2
	socksNoMethod   = 0xff
	socksConnect    = 1
	socksIPv4       = 1
	socksName       = 3
	socksIPv6       = 4
	passwordVersion = 1
)

// Replies of RFC 1928 §6.
const (
	replyOK          = 0
	replyFailure     = 1
	replyNotAllowed  = 2
	replyUnreachable = 4
	replyRefused     = 5
	replyTimeout     = 6
	replyCommand     = 7
	replyAddress     = 8
)

// handshakeTime bounds everything before the dial.
const handshakeTime = 10 * time.Second

// Serve accepts on l until ctx ends or l is closed; streams go on
// after that. It returns nil then.
func (s *Socks5) Serve(ctx context.Context, l *Listener) error {
	if err := s.accept(ctx, l, s.serve); err != nil {
		return fmt.Errorf("ingress: socks5: %w", err)
	}
	return nil
}

// serve is one connection. An answer of its own must arrive, so the socket's
// reset is taken back for it.
func (s *Socks5) serve(ctx context.Context, sock *armedConn) {
	_ = sock.SetDeadline(time.Now().Add(handshakeTime))
	job, err := s.authenticate(ctx, sock)
	if err != nil {
		s.count(sock, Target{}, err)
		return
	}
	target, reply, err := readRequest(sock)
	if err != nil {
		s.refuse(sock, target, reply, err)
		return
	}
	_ = sock.SetDeadline(time.Time{})
	sock.arm()
	ctx, cancel := sock.whileOpen(ctx)
	stream, err := s.dialer.Dial(ctx, job, target, sock.RemoteAddr())
	early := cancel()
	if err != nil {
		sock.disarmOnAnswer()
		s.refuse(sock, target, replyOf(err), err)
		return
	}
	if _, err := sock.Socket.Write(socksReply(replyOK)); err != nil {
		_ = sock.Close() // Carry resets the stream
	}
	s.carry(stream, sock, early, job, target)
}

// authenticate reads the greeting and the password, and checks both.
func (s *Socks5) authenticate(ctx context.Context, sock *armedConn) (Job, error) {
	var head [2]byte
	if _, err := io.ReadFull(sock, head[:]); err != nil {
		return Job{}, broken(err)
	}
	if head[0] != socksVersion {
		return Job{}, &failure{"protocol-violation", "relay", fmt.Sprintf("the first byte is %d, SOCKS 5 begins with 5", head[0]), "use SOCKS 5, for example socks5h://"}
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(sock, methods); err != nil {
		return Job{}, broken(err)
	}
	if !strings.ContainsRune(string(methods), socksPassword) {
		_, _ = sock.Write([]byte{socksVersion, socksNoMethod})
		return Job{}, &failure{"token-missing", "relay", "the client offers no user name and password", "socks5h://JOB:TOKEN@HOST:PORT"}
	}
	if _, err := sock.Write([]byte{socksVersion, socksPassword}); err != nil {
		return Job{}, err
	}
	user, password, err := readPassword(sock)
	if err != nil {
		return Job{}, broken(err)
	}
	job, err := s.dialer.Authenticate(ctx, jobOf(user), password, sock.RemoteAddr().String())
	if err != nil {
		_, _ = sock.Write([]byte{passwordVersion, 1})
		return Job{}, err
	}
	if job.Run, err = runOf(user); err != nil {
		_, _ = sock.Write([]byte{passwordVersion, 1})
		return Job{}, err
	}
	_, err = sock.Write([]byte{passwordVersion, 0})
	return job, err
}

// broken is a request that did not come: its sender was silent, or went.
func broken(err error) error {
	var own *failure
	var timeout net.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &timeout) && timeout.Timeout():
		return &failure{"silence", "relay", "no request came in time", ""}
	}
	return &failure{"closed", "relay", err.Error(), ""}
}

// readPassword reads RFC 1929 §2.
func readPassword(r io.Reader) (user, password string, err error) {
	var version [1]byte
	if _, err := io.ReadFull(r, version[:]); err != nil {
		return "", "", err
	}
	if version[0] != passwordVersion {
		return "", "", &failure{"protocol-violation", "relay", fmt.Sprintf("password negotiation of version %d", version[0]), "use SOCKS 5, for example socks5h://"}
	}
	if user, err = readShort(r); err != nil {
		return "", "", err
	}
	password, err = readShort(r)
	return user, password, err
}

// readShort reads a text with a length of one byte before it.
func readShort(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// readRequest reads RFC 1928 §4 and 5.
func readRequest(r io.Reader) (Target, byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Target{}, replyFailure, broken(err)
	}
	var host string
	var err error
	address := make([]byte, 4)
	switch head[3] {
	case socksName:
		host, err = readShort(r)
	case socksIPv6:
		address = make([]byte, 16)
		fallthrough
	case socksIPv4:
		_, err = io.ReadFull(r, address)
		ip, _ := netip.AddrFromSlice(address)
		host = ip.String()
	default:
		return Target{}, replyAddress, &failure{"target-malformed", "relay", fmt.Sprintf("an address of type %d", head[3]), "name the store: <store>.<gateway>"}
	}
	var port [2]byte
	if err == nil {
		_, err = io.ReadFull(r, port[:])
	}
	target := Target{Host: host, Port: int(binary.BigEndian.Uint16(port[:]))}
	canonical, malformed := canonicalHost(host)
	switch {
	case err != nil:
		return target, replyFailure, broken(err)
	case head[0] != socksVersion:
		return target, replyFailure, &failure{"protocol-violation", "relay", fmt.Sprintf("a request of version %d", head[0]), ""}
	case head[1] != socksConnect:
		return target, replyCommand, &failure{"command-unsupported", "relay", fmt.Sprintf("command %d: there is only CONNECT", head[1]), ""}
	case malformed != nil:
		return target, replyUnreachable, &failure{"target-malformed", "relay", fmt.Sprintf("%q is not STORE.GATEWAY: %v", host, malformed), "name the store: <store>.<gateway>"}
	}
	target.Host = canonical
	return target, replyOK, nil
}

// socksReply is an answer; the bound address says nothing here.
func socksReply(code byte) []byte {
	return []byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0}
}

// replyOf is the reply that fits the HTTP status of an error.
func replyOf(err error) byte {
	code := codeOf(err)
	if code == "store-refused" {
		return replyRefused
	}
	switch statuses[code] {
	case http.StatusForbidden, http.StatusProxyAuthRequired:
		return replyNotAllowed
	case http.StatusNotFound:
		return replyUnreachable
	case http.StatusGatewayTimeout:
		return replyTimeout
	}
	if strings.HasPrefix(code, "store-un") {
		return replyUnreachable
	}
	return replyFailure
}

func (s *Socks5) refuse(sock *armedConn, target Target, reply byte, err error) {
	_, _ = sock.Write(socksReply(reply))
	s.count(sock, target, err)
}

// count notes a refusal and closes.
func (s *Socks5) count(sock *armedConn, target Target, err error) {
	code := codeOf(err)
	s.metrics.requests.WithLabelValues(code).Inc()
	if code != "closed" && code != "silence" {
		s.refusals.refused("from", sock.RemoteAddr().String(), "target", clip(target.Host, 200), "code", code, "error", err)
	}
	sock.farewell()
}
