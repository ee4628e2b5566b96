package client

import (
	"errors"
	"fmt"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Error is a failure that a person sees: what failed, where on the path, and
// what to do about it.
type Error struct {
	code, hop, message, advice string
	err                        error
	exit                       int // of a program that fails with it; 0: 1
}

func (e *Error) Error() string {
	if e.err == nil {
		return e.message
	}
	return e.message + ": " + e.err.Error()
}

// Unwrap gives the cause; nil where there is none.
func (e *Error) Unwrap() error { return e.err }

// Code names the failure for programs.
func (e *Error) Code() string { return e.code }

// Hop names the part of the path that failed.
func (e *Error) Hop() string { return e.hop }

// ExitCode is what a program that fails with this exits with.
func (e *Error) ExitCode() int { return max(e.exit, 1) }

// Advice says what to do.
func (e *Error) Advice() string { return e.advice }

// coded is any error of ours that names its reason.
type coded interface {
	error
	Code() string
}

// codeOf is the reason that an error names; "" where it names none.
func codeOf(err error) string {
	if e, ok := errors.AsType[coded](err); ok {
		return e.Code()
	}
	return ""
}

// advice by the code of a refusal.
var refusalAdvice = map[bundle.Code]string{
	bundle.CodeStoreUnknown:     "declare the store in the node's connector.yaml, or correct its name",
	bundle.CodeStoreNotAllowed:  "add this job, or the ingress kind client, to the store in the node's connector.yaml",
	bundle.CodeStoreUnresolved:  "correct the store's address in the node's connector.yaml, or the node's DNS",
	bundle.CodeStoreRefused:     "see whether the store runs and listens on that port",
	bundle.CodeStoreTimeout:     "see whether the store is up and whether a firewall between the node and it drops connections",
	bundle.CodeStoreUnreachable: "see whether the node's network has a route to the store",
	bundle.CodeAddressRefused:   "correct the store's address in the node's connector.yaml, or allow it there with allow_special",
	bundle.CodeNodeBusy:         "run fewer copies at once, or add a node to the gateway",
	bundle.CodeNodeDraining:     "start the connector again, or add a node to the gateway",
	bundle.CodeNodeStopped:      "start the connector again, or add a node to the gateway",
	bundle.CodeRevoked:          "ask who runs the relay for a new token",
}

// refused is a node's answer to a stream that it did not open.
func refused(t Target, e *bundle.RefusedError) *Error {
	hop := "node"
	if e.Reason >= bundle.CodeStoreUnresolved && e.Reason < bundle.CodeNodeBusy {
		hop = "store"
	}
	message := fmt.Sprintf("%s: the node refused (%s)", t, e.Reason)
	if e.Text != "" {
		message = fmt.Sprintf("%s: %.500q", message, e.Text)
	}
	return &Error{code: e.Reason.String(), hop: hop, message: message, advice: refusalAdvice[e.Reason]}
}
