package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

const (
	keepAlive      = 15 * time.Second
	missedPings    = 3
	joinTimeout    = 10 * time.Second
	maxHandlers    = 64
	maxJoining     = 256
	maxPongs       = 16 // answers to pings under way; one is as good as many
	maxRefusals    = 64 // answers under way to requests beyond maxHandlers
	laneLabel      = "EXPORTER-ebbgate-lane"
	exporterLength = 32
)

// SessionConfig is how one end behaves.
type SessionConfig struct {
	// Initiator opens the control stream: connectors and clients do.
	Initiator bool
	// Hello is what this end says; Version and Time are filled in. The other
	// end's Accept may replace it.
	Hello Hello
	// Accept decides, at the end that does not initiate, about the peer's
	// hello and gives the answer. An error is sent to the peer, and ends the
	// session. nil answers Hello.
	Accept func(ctx context.Context, s *Session, peer Hello) (Hello, error)
	// Handle answers the peer's messages. What it returns is the answer, or
	// the error message. It runs in goroutines, maxHandlers at most.
	Handle func(ctx context.Context, s *Session, typ string, body json.RawMessage) (any, error)
	// Lane takes a lane that the peer opened, in a goroutine of its own; the
	// stream is Lane's. nil refuses lanes.
	Lane func(ctx context.Context, s *Session, join Join, stream Stream)
	// Now is the clock that hello tells the peer; nil: time.Now.
	Now func() time.Time
	// KeepAlive is the time between pings; 0: 15 s. Three missed ones end the
	// session.
	KeepAlive time.Duration
	// Logger takes refused messages; nil discards.
	Logger *slog.Logger
}

// Session is a link with a control stream. Its methods may be called from any
// goroutine once Start returned.
type Session struct {
	// static after construction
	link Link
	cfg  SessionConfig

	// static after Start
	control Stream
	hello   Hello // the peer's

	writing sync.Mutex // held while a control message is written

	mu sync.Mutex
	// guarded by mu
	nextID  uint64
	pending map[uint64]chan envelope
	rtt     time.Duration
	drained *Drain
	wearing bool        // Replace was said
	relays  []RelayInfo // as the peer told last

	tasks sync.WaitGroup
}

// NewSession makes a session of a link; call Start, then Run.
func NewSession(link Link, cfg SessionConfig) *Session {
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = keepAlive
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Hello.Version = protocolVersion
	return &Session{link: link, cfg: cfg, pending: make(map[uint64]chan envelope)}
}

// Link is what the session travels on.
func (s *Session) Link() Link { return s.link }

// Peer is the peer's identity, from the certificate that the link verified;
// false where it showed none.
func (s *Session) Peer() (certs.Identity, bool) { return certs.PeerIdentity(s.link.ConnectionState()) }

// Hello is what the peer said.
func (s *Session) Hello() Hello { return s.hello }

// RTT is the least round trip that a ping took; 0 before the first.
func (s *Session) RTT() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rtt
}

// Draining tells whether the peer said that it stops.
func (s *Session) Draining() (Drain, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drained == nil {
		return Drain{}, false
	}
	return *s.drained, true
}

// Relays are all relays of the instance, as the peer told last; it is not checked.
func (s *Session) Relays() []RelayInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.relays
}

// Done is closed when the session's link is over.
func (s *Session) Done() <-chan struct{} { return s.link.Done() }

// Close ends the session; reason reaches the peer where the carrier can say it.
func (s *Session) Close(reason string) error { return s.link.Close(reason) }

// Start exchanges hello within ten seconds, or ctx, and returns the peer's. On
// an error the link is closed.
func (s *Session) Start(ctx context.Context) (Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.link.Close("no hello in time") })
	err := s.start(ctx)
	if !stop() && err != nil {
		err = &Error{ErrCode: "hello-timeout", ErrHop: "relay", Message: fmt.Sprintf("no hello within %v", handshakeTimeout), Advise: "try again; is the peer overloaded?", Err: err}
	}
	if err != nil {
		_ = s.link.Close("hello failed")
		return Hello{}, err
	}
	return s.hello, nil
}

func (s *Session) start(ctx context.Context) (err error) {
	if s.cfg.Initiator {
		if s.control, err = s.link.OpenStream(ctx); err != nil {
			return err
		}
		prioritize(s.control, urgencyControl)
		if err := s.send(envelope{Type: TypeHello}, s.ownHello(s.cfg.Hello)); err != nil {
			return err
		}
		return s.readHello()
	}
	if s.control, err = s.link.AcceptStream(ctx); err != nil {
		return err
	}
	prioritize(s.control, urgencyControl)
	if err := s.readHello(); err != nil {
		return err
	}
	answer := s.cfg.Hello
	if s.cfg.Accept != nil {
		if answer, err = s.cfg.Accept(ctx, s, s.hello); err != nil {
			_ = s.send(envelope{Type: TypeError}, wireError(err))
			s.linger(ctx)
			return err
		}
	}
	return s.send(envelope{Type: TypeHello}, s.ownHello(answer))
}

// linger gives the peer time to read a last message and to close.
func (s *Session) linger(ctx context.Context) {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-s.link.Done():
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (s *Session) ownHello(h Hello) Hello {
	h.Version, h.Time = protocolVersion, s.cfg.Now().UTC()
	return h
}

func (s *Session) readHello() error {
	var e envelope
	if err := readFrame(s.control, maxMessage, &e); err != nil {
		if over := s.link.Err(); over != nil {
			err = over
		}
		return err
	}
	switch e.Type {
	case TypeError:
		if !s.cfg.Initiator { // whose codes would be the peer's invention
			return Errorf("protocol-violation", "relay", "use the same version at both ends", "an error instead of hello")
		}
		return peerError(TypeHello, e.Body)
	case TypeHello:
	default:
		return Errorf("protocol-violation", "relay", "use the same version at both ends", "%.40q instead of hello", e.Type)
	}
	if err := json.Unmarshal(e.Body, &s.hello); err != nil {
		return fmt.Errorf("tunnel: hello: %w", err)
	}
	s.relays = s.hello.Relays
	if s.hello.Version != protocolVersion {
		return Errorf("version-mismatch", "relay", "use the same version line at both ends", "the peer speaks protocol version %d, this end %d", s.hello.Version, protocolVersion)
	}
	return nil
}

// Run serves the session until it is over or ctx ends, and returns why. When it
// returns, every callback has.
func (s *Session) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.link.Close("stopped") })
	defer stop()
	s.tasks.Go(func() { s.ping(ctx) })
	if _, shown := s.Peer(); shown || s.cfg.Initiator { // strangers have no lanes
		s.tasks.Go(func() { s.acceptLanes(ctx) })
	}
	err := s.read(ctx)
	_ = s.link.Close("control stream over")
	cancel()
	s.tasks.Wait()
	if over := s.link.Err(); over != nil && !errors.As(err, new(*Error)) {
		err = over
	}
	return err
}

// read takes control messages until the stream ends.
func (s *Session) read(ctx context.Context) error {
	handlers := newSlots(maxHandlers)
	pongs, refusals := newSlots(maxPongs), newSlots(maxRefusals)
	for {
		var e envelope
		if err := readFrame(s.control, maxMessage, &e); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if e.Re != 0 {
			s.answered(e)
			continue
		}
		if e.Type == TypePing {
			pongs.try(&s.tasks, func() { _ = s.send(envelope{Type: replies[TypePing], Re: e.ID}, nil) })
			continue
		}
		if e.Type == TypeReplace && s.cfg.Initiator {
			s.replace(ctx, e.Body)
			continue
		}
		switch e.Type { // what counts in the order in which it comes
		case TypeDrain:
			s.drain(e.Body)
		case TypeRelays:
			s.retold(e.Body)
		}
		busy := Errorf("busy", "relay", "try again", "too many requests at once")
		if !handlers.try(&s.tasks, func() { s.handle(ctx, e) }) && !refusals.try(&s.tasks, func() { s.reply(e, nil, busy) }) {
			return Errorf("flood", "relay", "use the same version at both ends", "%d requests at once, whose answers are not read", maxHandlers+maxRefusals)
		}
	}
}

func (s *Session) drain(body json.RawMessage) {
	d := new(Drain)
	_ = json.Unmarshal(body, d) // an empty one says as much
	s.mu.Lock()
	s.drained = d
	s.mu.Unlock()
}

// handle answers one message.
func (s *Session) handle(ctx context.Context, e envelope) {
	if s.cfg.Handle == nil {
		s.reply(e, nil, unknownType(e.Type))
		return
	}
	answer, err := s.cfg.Handle(ctx, s, e.Type, e.Body)
	s.reply(e, answer, err)
}

func unknownType(typ string) error {
	return Errorf("message-unknown", "relay", "use the same version at both ends", "no message %.40q is known here", typ)
}

// reply sends the answer of a call. Messages without an id want none, except
// where they are unknown.
func (s *Session) reply(e envelope, answer any, err error) {
	if err != nil {
		s.cfg.Logger.Debug("message refused", "type", printable(e.Type, maxPeerName), "error", err)
		_ = s.send(envelope{Type: TypeError, Re: e.ID}, wireError(err))
		return
	}
	if e.ID == 0 {
		return
	}
	typ := replies[e.Type]
	if typ == "" {
		typ = e.Type
	}
	_ = s.send(envelope{Type: typ, Re: e.ID}, answer)
}

// wireError is err as the peer reads it.
func wireError(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	e := &Error{ErrCode: "internal", ErrHop: "relay", Message: err.Error()}
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		e.ErrCode = coded.Code()
	}
	var advised interface {
		Hop() string
		Advice() string
	}
	if errors.As(err, &advised) {
		e.ErrHop, e.Advise = advised.Hop(), advised.Advice()
	}
	return e
}

func (s *Session) answered(e envelope) {
	s.mu.Lock()
	waiting := s.pending[e.Re]
	delete(s.pending, e.Re)
	s.mu.Unlock()
	if waiting != nil {
		waiting <- e // has room for one
	}
}

// send writes one message.
func (s *Session) send(e envelope, body any) error {
	raw, err := encodeMessage(e, body)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("tunnel: send %s: %w", e.Type, err)
	}
	if _, err := s.control.Write(raw); err != nil {
		return fmt.Errorf("tunnel: send %s: %w", e.Type, err)
	}
	return nil
}

// Notify sends a message that wants no answer.
func (s *Session) Notify(typ string, body any) error { return s.send(envelope{Type: typ}, body) }

// Call sends a message and waits for its answer, which it decodes into answer
// (nil: nothing is wanted). The peer's refusal is an *Error.
func (s *Session) Call(ctx context.Context, typ string, body, answer any) error {
	waiting := make(chan envelope, 1)
	s.mu.Lock()
	s.nextID++
	id := s.nextID
	s.pending[id] = waiting
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pending, id)
		s.mu.Unlock()
	}()
	if err := s.send(envelope{Type: typ, ID: id}, body); err != nil {
		return err
	}
	select {
	case e := <-waiting:
		return decodeAnswer(typ, e, answer)
	case <-s.link.Done():
		return s.link.Err()
	case <-ctx.Done():
		return fmt.Errorf("tunnel: %s: %w", typ, ctx.Err())
	}
}

func decodeAnswer(typ string, e envelope, answer any) error {
	if e.Type == TypeError {
		return peerError(typ, e.Body)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(e.Body, answer); err != nil {
		return fmt.Errorf("tunnel: %s: %w", typ, err)
	}
	return nil
}

// Ping measures a round trip of the control stream.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	if err := s.Call(ctx, TypePing, nil, nil); err != nil {
		return 0, err
	}
	rtt := max(time.Since(start), time.Microsecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rtt == 0 || rtt < s.rtt {
		s.rtt = rtt
	}
	return rtt, nil
}

// ping keeps the session alive, and ends it when the peer does not answer.
func (s *Session) ping(ctx context.Context) {
	missed := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.link.Done():
			return
		case <-timer.C:
		}
		once, cancel := context.WithTimeout(ctx, s.cfg.KeepAlive)
		start := time.Now()
		_, err := s.Ping(once)
		cancel()
		if err == nil {
			missed = 0
		} else if missed++; missed >= missedPings {
			_ = s.link.Close("the peer does not answer")
			return
		}
		timer.Reset(s.cfg.KeepAlive - min(time.Since(start), s.cfg.KeepAlive))
	}
}
