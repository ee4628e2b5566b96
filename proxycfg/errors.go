package proxycfg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// What Error.Code returns. The hop is in brackets.
const (
	CodeConfig            = "proxy-config"             // (config) a setting is wrong; Error.Key names it
	CodePasswordFile      = "proxy-password-file"      // (config) missing, unreadable, empty or not a password
	CodeCanceled          = "canceled"                 // the caller gave up
	CodeUnresolved        = "name-unresolved"          // (dns) the destination's name, dialled directly
	CodeConnectionRefused = "connection-refused"       // (tcp) by the destination
	CodeConnectionTimeout = "connection-timeout"       // (tcp)
	CodeUnreachable       = "unreachable"              // (tcp) any other reason
	CodeProxyUnresolved   = "proxy-unresolved"         // (dns)
	CodeProxyRefused      = "proxy-connection-refused" // (tcp) by the proxy
	CodeProxyDialTimeout  = "proxy-connection-timeout" // (tcp)
	CodeProxyUnreachable  = "proxy-unreachable"        // (tcp) any other reason
	CodeProxyTimeout      = "proxy-timeout"            // (proxy) no answer to CONNECT
	CodeProxyClosed       = "proxy-closed"             // (proxy) closed without an answer
	CodeProxyNotHTTP      = "proxy-not-http"           // (proxy) answered something else
	CodeProxyHeader       = "proxy-header-too-large"   // (proxy)
	CodeProxyPage         = "proxy-page"               // (proxy) a web page, or the way to one, in place of a tunnel
	CodeProxyForbidden    = "proxy-forbidden"          // (proxy) 403: its policy
	CodeProxyBadGateway   = "proxy-bad-gateway"        // (proxy) 502
	CodeProxyUnavailable  = "proxy-unavailable"        // (proxy) 503
	CodeProxyGatewayTime  = "proxy-gateway-timeout"    // (proxy) 504
	CodeProxyStatus       = "proxy-status"             // (proxy) any other status
	CodeUpgradeRefused    = "upgrade-refused"          // (proxy) any other status but 101 to an upgrade
	CodeTunnelSilent      = "proxy-tunnel-silent"      // (proxy) 200, then nothing; see Proxy.Explain
	CodeTunnelClosed      = "proxy-tunnel-closed"      // (proxy) 200, then the end
	CodeTunnelGarbage     = "proxy-tunnel-garbage"     // (proxy) 200, then not TLS
	CodeAuthRequired      = "proxy-auth-required"      // (proxy-auth) and no credential is configured
	CodeAuthUnsupported   = "proxy-auth-unsupported"   // (proxy-auth) no scheme in common
	CodeCredentialRefused = "proxy-credential-refused" // (proxy-auth) definitive; see Error.Permanent
	CodeAuthUnanswered    = "proxy-auth-unanswered"    // (proxy-auth) waiting after attempts without an answer
	CodeNTLMBroken        = "proxy-ntlm-broken"        // (proxy-auth) the handshake cannot be finished
)

const (
	hopConfig    = "config"
	hopDNS       = "dns"
	hopTCP       = "tcp"
	hopProxy     = "proxy"
	hopProxyAuth = "proxy-auth"
)

// Error is every error of this package: a configuration error of [New], or what
// went wrong on the way to or through a proxy. It is a [net.Error].
type Error struct {
	code, hop, message, advice string

	// Key names the configuration key at fault, if it is one: proxy.bypass[2].
	Key string
	// Proxy is the proxy's host:port; empty: none was involved.
	Proxy string
	// StatusCode is what the proxy answered; 0: it did not come so far.
	StatusCode int

	err error
}

// Error tells what was seen.
func (e *Error) Error() string { return e.message }

// Code names the error for programs: one of the constants of this package.
func (e *Error) Code() string { return e.code }

// Hop names the hop that failed: config, dns, tcp, proxy or proxy-auth; empty
// where the caller gave up.
func (e *Error) Hop() string { return e.hop }

// Advice says what to do about it.
func (e *Error) Advice() string { return e.advice }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }

// Timeout says whether time ran out.
func (e *Error) Timeout() bool {
	var ne net.Error
	return errors.As(e.err, &ne) && ne.Timeout()
}

// Temporary is there for [net.Error].
func (e *Error) Temporary() bool { return false }

// Permanent says that the same call fails in the same way, without a word to the
// proxy, until a person changes something.
func (e *Error) Permanent() bool {
	return e.code == CodeConfig || e.code == CodePasswordFile || e.code == CodeCredentialRefused
}

func errConfig(key, what, advice string) *Error {
	return &Error{
		code: CodeConfig, hop: hopConfig, Key: key,
		message: "proxycfg: " + key + " " + what, advice: advice,
	}
}

// errDial is the failure to reach the first machine: the proxy, if there is one,
// else the destination itself.
func errDial(ctx context.Context, proxied bool, addr string, err error) *Error {
	if e := errContext(ctx, addr); e != nil && e.code == CodeCanceled {
		return e
	}
	e := &Error{err: err}
	who := addr
	if proxied {
		e.Proxy, who = addr, "proxy "+addr
	}
	var dns *net.DNSError
	var ne net.Error
	timeout := errors.As(err, &ne) && ne.Timeout()
	switch {
	case errors.As(err, &dns):
		e.hop, e.code = hopDNS, pick(proxied, CodeProxyUnresolved, CodeUnresolved)
		reason := dns.Err
		switch {
		case dns.IsNotFound:
			reason = "no such name"
		case dns.IsTimeout:
			reason = "the name server did not answer"
		}
		e.message = "proxycfg: " + who + ": resolve name: " + reason
		e.advice = pick(proxied,
			"check the proxy's name in the configuration, and this machine's DNS settings",
			"check the name, and this machine's DNS settings; networks that need a proxy often resolve no outside names: is a proxy to be configured (proxy.mode)?")
		return e
	case isRefused(err):
		e.code = pick(proxied, CodeProxyRefused, CodeConnectionRefused)
		e.advice = pick(proxied,
			"nothing listens there: check the proxy's port in the configuration, and that the proxy runs",
			"nothing listens there, or a firewall rejects the connection: check host and port, and ask whether a proxy is to be configured (proxy.mode)")
	case timeout:
		e.code = pick(proxied, CodeProxyDialTimeout, CodeConnectionTimeout)
		e.advice = pick(proxied,
			"check the proxy's address, and that a firewall lets this machine reach it",
			"a firewall may drop the connection: ask the network team to allow it, or whether a proxy is to be configured (proxy.mode)")
	default:
		e.code = pick(proxied, CodeProxyUnreachable, CodeUnreachable)
		e.advice = "check this machine's network and routes"
	}
	e.hop = hopTCP
	e.message = "proxycfg: " + who + ": connect: " + err.Error()
	return e
}

// errContext is the caller's giving up or the end of the time; nil: neither.
func errContext(ctx context.Context, what string) *Error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	e := &Error{code: CodeCanceled, message: "proxycfg: " + what + ": canceled", err: err}
	if errors.Is(err, context.DeadlineExceeded) {
		e.code, e.hop, e.message = CodeProxyTimeout, hopProxy, "proxycfg: "+what+": out of time"
		e.advice = "the proxy is slow or overloaded: ask the network team"
	}
	return e
}

// errExchange is an exchange with the proxy that ended without an HTTP answer.
func errExchange(ctx context.Context, proxy string, req *request, err error, took time.Duration) *Error {
	e := &Error{hop: hopProxy, Proxy: proxy, err: err}
	asked := " to " + req.what
	var seen *notHTTPError
	var ne net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return &Error{code: CodeCanceled, Proxy: proxy, message: "proxycfg: proxy " + proxy + ": canceled", err: ctx.Err()}
	case errors.As(err, &seen):
		e.code, e.message = CodeProxyNotHTTP, "answered "+quote(seen.seen)+asked+", which is not HTTP"
		e.advice = "another service listens there: check the proxy's host and port"
		if strings.HasPrefix(seen.seen, "\x15\x03") || strings.HasPrefix(seen.seen, "\x16\x03") {
			e.advice = "this port speaks TLS: ask for the proxy's plain HTTP port"
		}
	case errors.Is(err, errHeaderTooLarge):
		e.code, e.message = CodeProxyHeader, fmt.Sprintf("answered more than %d KiB of header%s", maxHeader>>10, asked)
		e.advice = "no proxy does this: check the proxy's host and port"
	case ctx.Err() != nil, errors.As(err, &ne) && ne.Timeout():
		if ctx.Err() != nil {
			e.err = ctx.Err()
		}
		e.code, e.message = CodeProxyTimeout, fmt.Sprintf("did not answer%s within %s", asked, took.Round(100*time.Millisecond))
		e.advice = "the proxy is overloaded, or cannot reach the destination: ask the network team to allow " + req.wish
	default:
		e.code, e.message = CodeProxyClosed, "closed the connection without an answer"+asked
		e.advice = "check that this is the proxy's port, and ask the network team whether it closes what it does not allow"
	}
	e.message = "proxycfg: proxy " + proxy + " " + e.message
	return e
}

// errStatus is an answer that is neither success nor 407.
func errStatus(proxy string, req *request, a *answer) *Error {
	target := req.target
	e := &Error{
		hop: hopProxy, Proxy: proxy, StatusCode: a.status,
		message: "proxycfg: proxy " + proxy + " answered " + quote(a.line) + " to " + req.what,
	}
	if a.detail != "" {
		e.message += " (" + a.detail + ")"
	}
	askFor := "ask the network team to allow " + req.wish + " on proxy " + proxy
	if req.method != http.MethodConnect {
		askFor += ", with its Upgrade to WebSocket"
	}
	switch {
	case req.method != http.MethodConnect && a.status != 403 && a.status < 500:
		e.code = CodeUpgradeRefused
		e.advice = "the proxy, or what answers behind it, makes no WebSocket of it: " + askFor
	case a.status/100 == 2:
		e.code, e.message = CodeProxyPage, e.message+" with a web page in place of a tunnel"
		e.advice = "this is a web server or a login portal and not a proxy: check the proxy's host and port, or log in"
	case a.status/100 == 3:
		e.code = CodeProxyPage
		e.advice = "the network sends people to a login or notice page first: log in there, or ask the network team to exempt this machine"
	case a.status == 403:
		e.code, e.advice = CodeProxyForbidden, "the proxy's policy does not allow this destination or port: "+askFor
	case a.status == 502:
		e.code, e.advice = CodeProxyBadGateway, "the proxy could not connect to "+target+": check that it is up and that the proxy may reach it"
	case a.status == 503:
		e.code, e.advice = CodeProxyUnavailable, "the proxy could not connect to "+target+", or is overloaded: check that the name resolves there and that the destination is up"
	case a.status == 504:
		e.code, e.advice = CodeProxyGatewayTime, target+" did not answer the proxy: check that it is up and that a firewall lets the proxy reach it"
	case a.status == 500: // Squid's answer where the name does not resolve
		e.code, e.advice = CodeProxyStatus, "the proxy could not reach "+target+": check that the name resolves there; "+askFor
	case a.status == 405 || a.status == 501 || a.status == 404 || a.status == 400:
		e.code, e.advice = CodeProxyStatus, "this may be a web server and not a proxy, or one without CONNECT: check the proxy's host and port, or "+askFor
	default:
		e.code, e.advice = CodeProxyStatus, askFor
	}
	return e
}

func errAuth(code, proxy, message, advice string, err error) *Error {
	return &Error{
		code: code, hop: hopProxyAuth, Proxy: proxy, err: err, StatusCode: 407,
		message: "proxycfg: proxy " + proxy + " " + message, advice: advice,
	}
}

// errRefused is the definitive refusal of a credential, now or earlier.
func errRefused(proxy, user string, r refusal, now bool, where string) *Error {
	again := "then change proxy.password_file; nothing more is tried until then"
	if where != "" {
		again = "then change proxy.password_file, or remove " + where + " to try the same password again; nothing more is tried until then"
	}
	message := "refused the credential of " + quotable(user) + " (" + string(r.Scheme) + "): it answered " + quote(r.Line)
	if !now {
		message += " at " + r.Time.UTC().Format(time.RFC3339) + ", and nothing has changed since"
	}
	return errAuth(CodeCredentialRefused, proxy, message,
		"check user name and password, that the account is not locked or expired, and that it may use this proxy; "+again, nil)
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

const maxQuoted = 120

// quote makes what a peer said fit for a message.
func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.QuoteToASCII(s[:maxQuoted]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// quotable is what a person configured, bare if it is harmless.
func quotable(s string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == '"' }
	if len(s) > maxQuoted || strings.ContainsFunc(s, odd) {
		return quote(s)
	}
	return s
}

func errDestination(addr string) *Error {
	return &Error{
		code: CodeConfig, hop: hopConfig,
		message: "proxycfg: " + quote(addr) + " is not host:port", advice: "write relay.example.com:443",
	}
}

func errUnanswered(proxy string, s *stop) *Error {
	e := errAuth(CodeAuthUnanswered, proxy,
		fmt.Sprintf("did not answer %d attempt(s) with the credential of %s; the next one is made in %s at the earliest, so that the account is not locked",
			s.unanswered, quotable(s.cred.user), s.wait.Round(time.Second)),
		"the proxy, or what verifies its passwords, is slow or down: ask the network team", nil)
	e.StatusCode = 0
	return e
}

func joinSchemes(list []Scheme) string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}
