package tunnel

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// Times and bounds of sessions.
const (
	DefaultKeepAlive = 15 * time.Second // between pings
	MissedPings      = 3                // unanswered ones before a session is dead
	HelloTimeout     = 10 * time.Second // for both hellos
	JoinTimeout      = 10 * time.Second // for a lane's preamble
	MaxMessage       = 64 << 10         // bytes of a control message
	MaxJoin          = 4 << 10          // bytes of a lane's preamble
)

// SessionConfig says what a session does. It is read once and never changed.
type SessionConfig struct {
	// Initiator is the side that dialled. It opens the control stream.
	Initiator bool
	// Hello is what this side says. Version and Time are filled in.
	Hello Hello
	// Greet decides, where it is set, about the peer's hello before this side,
	// which must not be the initiator, answers with the Hello that it returns.
	// An error, an *Error for one that the peer may see, ends the session.
	Greet func(ctx context.Context, s *Session, peer Hello) (Hello, error)
	// Handle answers requests and takes notices (its reply is then dropped).
	// Requests are handled side by side, a bounded number at a time; notices one
	// after the other, in the order in which they came. ctx ends with the session. A reply is a
	// value of the type that belongs to the request, or nil for "ok". Of an error
	// that is no *Error (with Code, Hop and Advice methods at least) the peer learns
	// only that there was one. nil: every type is unknown.
	Handle func(ctx context.Context, s *Session, msgType string, raw json.RawMessage) (reply any, err error)
	// Lane receives lanes that the peer opened, each on a goroutine of its own,
	// and owns the stream. When it returns the stream is closed. nil: lanes are
	// closed at once.
	Lane func(ctx context.Context, s *Session, join Join, stream Stream)
	// MaxLanes bounds how many lanes of the peer are open at once; 0: 64.
	MaxLanes int
	// KeepAlive is the time between pings; 0: DefaultKeepAlive. The session is
	// dead after MissedPings unanswered ones.
	KeepAlive time.Duration
	// Logger is where changes of state go; nil discards.
	Logger *slog.Logger
	// Metrics counts; nil does not.
	Metrics *Metrics
}

// Session is a link with its control stream. Its methods may be called from any
// goroutine, most of them after Start.
type Session struct{}

// NewSession makes a session of a link, which belongs to it from then on. It
// does no I/O.
func NewSession(link Link, cfg SessionConfig) *Session { panic("todo") }

// Start exchanges hellos within HelloTimeout and gives the peer's. When it fails
// the link is closed and the error says why: a *PeerError where the peer did.
func (s *Session) Start(ctx context.Context) (Hello, error) { panic("todo") }

// Run serves the session until it is over and returns why: ctx's error (the peer
// is told and the link closed in order), a *PeerError, an *Error. When it
// returns, all handlers and lanes of the session are over.
func (s *Session) Run(ctx context.Context) error { panic("todo") }

// Call sends a request and waits for its answer, which goes to reply, a pointer
// or nil. A *PeerError is the peer's refusal.
func (s *Session) Call(ctx context.Context, msgType string, req, reply any) error { panic("todo") }

// Notify sends a message that is not answered. It waits only while earlier
// messages wait for the network, at most until ctx ends.
func (s *Session) Notify(ctx context.Context, msgType string, body any) error { panic("todo") }

// Ping measures a round trip over the control stream.
func (s *Session) Ping(ctx context.Context) (time.Duration, error) { panic("todo") }

// OpenLane opens a stream and sends its preamble.
func (s *Session) OpenLane(ctx context.Context, join Join) (Stream, error) { panic("todo") }

// LaneExporter gives the 32 bytes of keying material that belong to one stream
// of this session's link (label EXPORTER-ebbgate-lane, context: the stream's
// number, 8 bytes, big-endian).
func (s *Session) LaneExporter(stream Stream) ([]byte, error) { panic("todo") }

// Exporter gives 32 bytes of the link's keying material for proofs of
// possession (certs.Prove, certs.CheckProof).
func (s *Session) Exporter() ([]byte, error) { panic("todo") }

// Peer is the verified identity of the other end; false where it showed no
// certificate.
func (s *Session) Peer() (certs.Identity, bool) { panic("todo") }

// PeerHello is what the peer said; valid after Start.
func (s *Session) PeerHello() Hello { panic("todo") }

// Link is what the session travels on.
func (s *Session) Link() Link { panic("todo") }

// RTT is the smoothed round trip of the control stream; 0: not measured yet.
func (s *Session) RTT() time.Duration { panic("todo") }

// Lanes counts the lanes that are open, of both sides.
func (s *Session) Lanes() int { panic("todo") }

// Drain tells the peer that this side opens nothing new on the session.
func (s *Session) Drain(ctx context.Context, d Drain) error { panic("todo") }

// Draining is closed when the peer has said drain.
func (s *Session) Draining() <-chan struct{} { panic("todo") }

// DrainNotice is what the peer said; valid once Draining is closed.
func (s *Session) DrainNotice() Drain { panic("todo") }

// Close ends the session in order: the peer is told reason (nil: none), the link
// is closed. It returns when Run is about to.
func (s *Session) Close(reason *Error) error { panic("todo") }

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { panic("todo") }
