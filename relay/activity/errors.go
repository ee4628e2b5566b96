package activity

import "fmt"

// Error is why the activity record does not answer or take anything now.
type Error struct {
	code, message, advice string
	cause                 error
}

func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %v", e.message, e.cause)
	}
	return e.message
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.cause }

// Code names the error.
func (e *Error) Code() string { return e.code }

// Hop is where it happened.
func (*Error) Hop() string { return "relay" }

// Advice says what to do.
func (e *Error) Advice() string { return e.advice }

func unavailable(cause error) *Error {
	advice := "look at the relay's log and at the disk of its state directory; copies go on meanwhile, and it recovers by itself"
	if full(cause) {
		advice = "make room on the disk of the relay's state directory; copies go on meanwhile, and it recovers by itself"
	}
	return &Error{code: "activity-unavailable", message: "the activity record cannot be read and written now", advice: advice, cause: cause}
}

func busy() *Error {
	return &Error{code: "activity-busy", message: "more ends of streams come in than the relay can write", advice: "they are sent again; look at the disk of the relay's state directory"}
}
