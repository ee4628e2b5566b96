package tunnel

import (
	"context"
	"log/slog"
	"time"
)

// Keeper keeps one session up: it dials, serves, and dials again, with full
// jitter between 250 ms and 30 s. Its fields are set before Run.
type Keeper struct {
	// Dial makes a link; usually Dialer.Dial.
	Dial func(ctx context.Context) (Link, error)
	// Better tries better carriers than the current one's, and gives nil, nil
	// where there are none; usually Dialer.DialBetter. nil: never tried.
	Better func(ctx context.Context, current Carrier) (Link, error)
	// Config gives the configuration of each new session; Initiator is set.
	Config func() SessionConfig
	// Up is told about each session that takes over, after its hellos and while
	// its messages are already served; an older one may still carry lanes. Down is told when a
	// session is over, and why. Both may be nil; they are called one at a time
	// and must not block.
	Up   func(s *Session)
	Down func(s *Session, err error)
	// Changed is told about each change of the state; nil: nobody.
	Changed func(KeeperStatus)
	Logger  *slog.Logger
	Metrics *Metrics
}

// KeeperState is what a keeper is at.
type KeeperState string

// The states.
const (
	Connecting KeeperState = "connecting"
	Connected  KeeperState = "connected"
	Waiting    KeeperState = "waiting" // for the next attempt
	Stopped    KeeperState = "stopped" // after a permanent error, until Retry
)

// KeeperStatus is a keeper's state and why.
type KeeperStatus struct {
	State KeeperState
	Since time.Time
	Next  time.Time // of the next attempt, while Waiting
	Err   error     // of the last attempt or session; nil while Connected
}

// Run keeps the session up until ctx ends. Errors with a method Permanent() bool
// that is true stop attempts until Retry.
func (k *Keeper) Run(ctx context.Context) error { panic("todo") }

// Session is the current one, or nil.
func (k *Keeper) Session() *Session { panic("todo") }

// Status is the current state.
func (k *Keeper) Status() KeeperStatus { panic("todo") }

// Retry makes the next attempt now: after a permanent error when something was
// changed, or while waiting.
func (k *Keeper) Retry() { panic("todo") }
