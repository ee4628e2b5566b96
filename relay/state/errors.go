package state

import (
	"errors"
	"fmt"
)

// What callers tell apart, with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("exists already")
	ErrInvalid     = errors.New("not valid")              // a name, a list, a public key
	ErrRefused     = errors.New("refused")                // a key, a token, a renewal
	ErrUnavailable = errors.New("state unavailable")      // the change was not made; try again
	ErrAway        = errors.New("database away")          // it is ErrUnavailable, too: nobody can know when it is back
	ErrMissing     = errors.New("no state was ever made") // Init makes it
	ErrInUse       = errors.New("in use by another relay")
)

// Error is every failure of this package but damage, which is a [CorruptError].
// It is one of the sentinels above.
type Error struct {
	kind    error
	code    string
	message string
	advice  string
	cause   error
	away    bool // it is ErrAway, too
}

func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %v", e.message, e.cause)
	}
	return e.message
}

// Unwrap gives the sentinel and the cause.
func (e *Error) Unwrap() []error {
	list := []error{e.kind}
	if e.away {
		list = append(list, ErrAway)
	}
	if e.cause != nil {
		list = append(list, e.cause)
	}
	return list
}

// Code names the error, in kebab case.
func (e *Error) Code() string { return e.code }

// Hop is where it happened.
func (e *Error) Hop() string { return hop }

// Advice says what to do.
func (e *Error) Advice() string { return e.advice }

const hop = "relay"

// CorruptError is state that Open refuses: a file is missing or damaged, or the
// files do not belong together. Nothing was changed.
type CorruptError struct {
	Path   string // the file that it was seen in
	Reason string
	Err    error // may be nil
	advice string
}

func (e *CorruptError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the relay's state is refused: %s: %s: %v", e.Path, e.Reason, e.Err)
	}
	return fmt.Sprintf("the relay's state is refused: %s: %s", e.Path, e.Reason)
}

// Unwrap is what was wrong.
func (e *CorruptError) Unwrap() error { return e.Err }

// Code names the error.
func (e *CorruptError) Code() string { return "state-corrupt" }

// Hop is where it happened.
func (e *CorruptError) Hop() string { return hop }

// Advice says how to restore.
func (e *CorruptError) Advice() string {
	if e.advice != "" {
		return e.advice
	}
	return restore
}

const restoreShared = "nothing was changed; does state.postgres name the right database? " +
	"If so, stop all its relays and restore the database, and state.marker and state.key of each relay, from one backup; " +
	"a new CA is never made over old state, as every key, token and node would be lost with the old one"

const restore = "nothing was changed; stop the relay and restore state.db, state.marker and state.key together, from one backup; " +
	"a new CA is never made over old state, as every key, token and node would be lost with the old one"
