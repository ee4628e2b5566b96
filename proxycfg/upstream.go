package proxycfg

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"time"
)

// maxRounds is how often one dial begins again because the proxy asks for
// something else than it did before.
const maxRounds = 4

// upstream is one proxy.
type upstream struct {
	url        *url.URL // without user information
	host, port string
	addr       string  // host:port
	source     *source // nil: there is no credential
	schemes    []Scheme
	reach      reach
	memory     *memory
	log        *slog.Logger

	gate gate
	// handshake holds one token from NTLM's first message to its third: a proxy
	// reserves a helper of few in between.
	handshake chan struct{}
}

// dial opens what is asked for.
func (u *upstream) dial(ctx context.Context, req *request) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	if u.source == nil {
		conn, _, err := u.attempt(ctx, req, pass{})
		return conn, err
	}
	for range maxRounds {
		conn, again, err := u.round(ctx, req)
		if !again {
			return conn, err
		}
	}
	return nil, errAuth(CodeAuthUnsupported, u.addr, "offers other authentication schemes at each request",
		"ask the network team which schemes the proxy supports, and set proxy.auth to the one to use", nil)
}

// round is one dial through the gate. again: it must be repeated.
func (u *upstream) round(ctx context.Context, req *request) (conn net.Conn, again bool, err error) {
	p, s, err := u.gate.enter(ctx, u.load)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, false, errContext(ctx, "proxy "+u.addr+": wait for another dial that proves the credential")
	case err != nil:
		return nil, false, err
	case s != nil && s.refusal != nil:
		return nil, u.reconsider(s), errRefused(u.addr, s.cred.user, *s.refusal, false, u.memory.path())
	case s != nil:
		return nil, false, errUnanswered(u.addr, s)
	}
	if p.recall {
		r, err := u.memory.recall(u.account(p.cred))
		if err != nil {
			u.log.Warn("cannot tell whether the proxy refused this credential before; it is tried once", "error", err)
		}
		if r != nil {
			u.gate.leave(p, verdict{outcome: refused, refusal: *r})
			u.gate.record(p.cred)
			return nil, false, errRefused(u.addr, p.cred.user, *r, false, u.memory.path())
		}
	}
	conn, v, err := u.attempt(ctx, req, p)
	u.gate.leave(p, v)
	u.keep(p, v)
	return conn, v.outcome == asked || v.outcome == outdated, err
}

// load reads the credential.
func (u *upstream) load(ctx context.Context) (*credential, error) { return u.source.load(ctx, u.log) }

func (u *upstream) account(c *credential) account { return account{u.addr, u.schemes, c} }

// reconsider lifts a refusal whose record a person has removed.
func (u *upstream) reconsider(s *stop) bool {
	if !s.recorded {
		return false
	}
	r, err := u.memory.recall(u.account(s.cred))
	if err != nil || r != nil {
		return false
	}
	u.gate.lift(s.cred)
	return true
}

// keep writes down what must outlive this process.
func (u *upstream) keep(p pass, v verdict) {
	switch {
	case v.outcome == refused:
		if err := u.memory.remember(u.account(p.cred), v.refusal); err != nil {
			u.log.Error("cannot remember that the proxy refused the credential: a restart will try it again", "error", err)
		} else if u.memory.path() != "" {
			u.gate.record(p.cred)
		}
	case v.outcome == accepted && p.first:
		u.log.Info("the proxy accepts the credential", "proxy", u.addr, "scheme", string(v.scheme))
		if err := u.memory.forget(u.account(p.cred)); err != nil {
			u.log.Warn("cannot forget an earlier refusal", "error", err)
		}
	}
}

// open connects to the proxy.
func (u *upstream) open(ctx context.Context, req *request) (*exchange, error) {
	conn, err := u.reach.connect(ctx, "tcp", u.host, u.port)
	if err != nil {
		return nil, errDial(ctx, true, u.addr, err)
	}
	return newExchange(ctx, conn, req), nil
}

// attempt asks once. Without a scheme it first asks without a credential
// what the proxy offers. That answer's connection is not used again: some
// proxies close it, and not all of them say so.
func (u *upstream) attempt(ctx context.Context, req *request, p pass) (net.Conn, verdict, error) {
	scheme := p.scheme
	if scheme == "" {
		x, err := u.open(ctx, req)
		if err != nil {
			return nil, verdict{}, err
		}
		began := time.Now()
		a, err := x.ask("")
		if err != nil || a.status != 407 {
			return u.finish(ctx, x, a, err, began, verdict{outcome: unsent}, notAsked)
		}
		x.close()
		if p.cred == nil {
			return nil, verdict{}, errAuth(CodeAuthRequired, u.addr,
				"answered "+quote(a.line)+" and offers "+offered(a.offers)+"; no credential is configured",
				"set proxy.username and proxy.password_file", nil)
		}
		if !p.alone {
			return nil, verdict{outcome: asked}, nil
		}
		if scheme = u.choose(a); scheme == "" {
			return nil, verdict{}, errAuth(CodeAuthUnsupported, u.addr,
				"answered "+quote(a.line)+" and offers "+offered(a.offers)+"; configured: "+joinSchemes(u.schemes),
				"ask the network team to let this account use one of: "+joinSchemes(strongestFirst)+"; and check proxy.auth", nil)
		}
	}
	if scheme == SchemeNTLM {
		return u.ntlm(ctx, req, p)
	}
	return u.basic(ctx, req, p)
}

// choose takes the strongest scheme that is both offered and configured.
func (u *upstream) choose(a *answer) Scheme {
	for _, s := range u.schemes {
		if _, ok := a.offer(s); ok {
			return s
		}
	}
	return ""
}

// basic asks with a Basic credential.
func (u *upstream) basic(ctx context.Context, req *request, p pass) (net.Conn, verdict, error) {
	x, err := u.open(ctx, req)
	if err != nil {
		return nil, verdict{}, err
	}
	pair := p.cred.user + ":" + p.cred.password.reveal()
	return u.final(ctx, x, p, SchemeBasic, "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)), func() {})
}

// ntlm asks with an NTLM handshake.
func (u *upstream) ntlm(ctx context.Context, req *request, p pass) (net.Conn, verdict, error) {
	select {
	case u.handshake <- struct{}{}:
	case <-ctx.Done():
		return nil, verdict{}, errContext(ctx, "proxy "+u.addr+": wait for another NTLM handshake")
	}
	held := true
	done := func() {
		if held {
			held = false
			<-u.handshake
		}
	}
	defer done()

	first, err := ntlmNegotiate()
	if err != nil {
		return nil, verdict{}, u.broken(err)
	}
	x, err := u.open(ctx, req)
	if err != nil {
		return nil, verdict{}, err
	}
	began := time.Now()
	a, err := x.ask("NTLM " + first)
	if err != nil || a.status != 407 {
		return u.finish(ctx, x, a, err, began, verdict{outcome: unsent}, notAsked)
	}
	c, ok := a.offer(SchemeNTLM)
	if !ok && p.scheme != "" {
		x.close()
		return nil, verdict{outcome: outdated}, nil
	}
	message, err := "", error(nil)
	switch {
	case c.token == "":
		err = errors.New("the proxy offers NTLM but sends no challenge")
	case a.closing:
		err = errors.New("the proxy closes the connection in the middle")
	default:
		message, err = ntlmAuthenticate(c.token, p.cred.user, p.cred.password.reveal())
	}
	if err != nil {
		x.close()
		return nil, verdict{}, u.broken(err)
	}
	if usable, err := x.answers.drain(a); err != nil {
		x.close()
		return nil, verdict{}, errExchange(ctx, u.addr, req, err, time.Since(began))
	} else if !usable {
		x.close()
		return nil, verdict{}, u.broken(errors.New("the answer that holds the challenge does not end"))
	}
	return u.final(ctx, x, p, SchemeNTLM, "NTLM "+message, done)
}

func (u *upstream) broken(err error) *Error {
	return errAuth(CodeNTLMBroken, u.addr, "breaks the NTLM handshake: "+quotable(err.Error()),
		"NTLM authenticates a connection: a load balancer or filter before the proxy may not keep it; ask the network team, or set proxy.auth to another scheme", err)
}

// final makes the attempt: it sends the request that shows the password, or
// proves it. sent is called when the request is on its way.
func (u *upstream) final(ctx context.Context, x *exchange, p pass, scheme Scheme, authorization string, sent func()) (net.Conn, verdict, error) {
	if err := errContext(ctx, "proxy "+u.addr); err != nil {
		x.close()
		return nil, verdict{}, err
	}
	if !u.gate.good(p) {
		x.close()
		return nil, verdict{outcome: asked}, nil // the next round tells the refusal
	}
	x.attempt.Store(p.first)
	began := time.Now()
	err := x.send(authorization)
	sent()
	var a *answer
	if err == nil {
		a, err = x.answers.read()
	}
	if err != nil || a.status != 407 {
		return u.finish(ctx, x, a, err, began, verdict{outcome: unanswered, scheme: scheme}, accepted)
	}
	x.close()
	if _, offers := a.offer(scheme); !offers && scheme == SchemeBasic && p.scheme != "" {
		// It was not looked at: the proxy has stopped speaking Basic.
		return nil, verdict{outcome: outdated}, nil
	}
	r := refusal{Scheme: scheme, Line: a.line[:min(len(a.line), maxQuoted)], Time: time.Now()}
	return nil, verdict{outcome: refused, scheme: scheme, refusal: r},
		errRefused(u.addr, p.cred.user, r, true, u.memory.path())
}

// finish turns the last answer, which is not 407, or the lack of one into what
// the caller gets. v is for no answer; answered is the outcome for any.
func (u *upstream) finish(ctx context.Context, x *exchange, a *answer, err error, began time.Time, v verdict, answered outcome) (net.Conn, verdict, error) {
	if err != nil {
		x.close()
		return nil, v, errExchange(ctx, u.addr, x.req, err, time.Since(began))
	}
	granted := x.req.granted(a)
	if granted || answered == accepted {
		v.outcome = answered
	}
	if !granted {
		x.close()
		return nil, v, errStatus(u.addr, x.req, a)
	}
	x.req.switched = a.header
	conn, err := x.release(ctx)
	if err != nil {
		return nil, v, errContext(ctx, "proxy "+u.addr)
	}
	return conn, v, nil
}
