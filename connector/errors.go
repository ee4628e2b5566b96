package connector

import "fmt"

// Error is a failure that a person may see: of registering, of running, of a
// dial. Causes of other packages that say their hop themselves are passed on
// unchanged instead.
type Error struct {
	code, hop, message, advice string
	err                        error
}

func (e *Error) Error() string { return e.message }

// Code names the failure for programs, in kebab case.
func (e *Error) Code() string { return e.code }

// Hop names the part of the path that failed: config, registration, relay,
// node or store.
func (e *Error) Hop() string { return e.hop }

// Advice says what to do about it.
func (e *Error) Advice() string { return e.advice }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }

func failure(code, hop string, cause error, advice, format string, args ...any) *Error {
	return &Error{code: code, hop: hop, err: cause, advice: advice, message: fmt.Sprintf(format, args...)}
}

// spoken is an error that names its hop.
type spoken interface {
	error
	Code() string
	Hop() string
	Advice() string
}

var _ spoken = (*Error)(nil)
