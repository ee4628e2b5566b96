package bundle

import (
	"errors"
	"fmt"
)

// Code is the reason of a REFUSED, RST or GOAWAY frame. Codes travel on the
// wire: numbers are never reused.
type Code uint16

// Reasons. The names that String gives are what people and programs see.
const (
	// CodeOK is the end of a stream whose two directions both ended well.
	CodeOK Code = 0
	// CodeInternal is a fault of the software itself.
	CodeInternal Code = 1
	// CodeProtocol is a frame that the protocol forbids.
	CodeProtocol Code = 2
	// CodeCancelled is an ingress that gave up before the stream was open.
	CodeCancelled Code = 3
	// CodeCredit is DATA beyond the credit that was granted.
	CodeCredit Code = 4
	// CodeDigest is a direction whose bytes do not have the CRC-32C of its FIN.
	CodeDigest Code = 5
	// CodeOverlap is DATA that contradicts bytes that came before.
	CodeOverlap Code = 6

	// CodeGrantInvalid is a grant that the node does not accept.
	CodeGrantInvalid Code = 10
	// CodeGrantExpired is a grant whose time has passed.
	CodeGrantExpired Code = 11
	// CodeStoreUnknown is a store that is not in the node's configuration.
	CodeStoreUnknown Code = 12
	// CodeStoreNotAllowed is a store that does not serve this job or ingress.
	CodeStoreNotAllowed Code = 13

	// CodeStoreUnresolved is a store whose name does not resolve on the node.
	CodeStoreUnresolved Code = 20
	// CodeStoreRefused is a store that refused the TCP connection.
	CodeStoreRefused Code = 21
	// CodeStoreTimeout is a store that did not answer in time.
	CodeStoreTimeout Code = 22
	// CodeStoreUnreachable is a store to which the node's network has no way.
	CodeStoreUnreachable Code = 23
	// CodeAddressRefused is an address that the node's policy does not dial.
	CodeAddressRefused Code = 24

	// CodeNodeBusy is a node that has no room for another stream.
	CodeNodeBusy Code = 30
	// CodeNodeDraining is a node that takes no new streams because it stops.
	CodeNodeDraining Code = 31
	// CodeNodeStopped is a node that stopped in an orderly way.
	CodeNodeStopped Code = 32
	// CodeIngressStopped is an ingress that stopped in an orderly way.
	CodeIngressStopped Code = 33
	// CodeRevoked is a job or node that may no longer use the gateway.
	CodeRevoked Code = 34

	// CodeStoreReset is a store that reset its connection.
	CodeStoreReset Code = 40
	// CodeJobReset is a job that reset its connection.
	CodeJobReset Code = 41
	// CodeLanesLost is a bundle that had no lane for longer than its grace.
	CodeLanesLost Code = 42
	// CodeEndRestarted is a far end that came back as another process.
	CodeEndRestarted Code = 43
	// CodeUnknownBundle is a lane for a bundle that this end does not have.
	CodeUnknownBundle Code = 44
	// CodeLaneRefused is a lane whose identities or HMAC do not fit its bundle.
	CodeLaneRefused Code = 45
	// CodeLaneSilent is a lane that did not answer its pings.
	CodeLaneSilent Code = 46

	// CodeRecords is a lane whose keys protected as many records as they may.
	CodeRecords Code = 50
	// CodeCertificate is a lane that began with a certificate which was renewed.
	CodeCertificate Code = 51
	// CodeDraining is a lane through a relay that stops.
	CodeDraining Code = 52
	// CodeMoved is a lane whose session, carrier or proxy is not used any more.
	CodeMoved Code = 53
	// CodeIdle is a lane that bulk did not need any more.
	CodeIdle Code = 54
)

var codeNames = map[Code]string{
	CodeOK:               "ok",
	CodeInternal:         "internal",
	CodeProtocol:         "protocol-violation",
	CodeCancelled:        "cancelled",
	CodeCredit:           "credit-overflow",
	CodeDigest:           "digest-mismatch",
	CodeOverlap:          "overlapping-data",
	CodeGrantInvalid:     "grant-invalid",
	CodeGrantExpired:     "grant-expired",
	CodeStoreUnknown:     "store-unknown",
	CodeStoreNotAllowed:  "store-not-allowed",
	CodeStoreUnresolved:  "store-unresolved",
	CodeStoreRefused:     "store-refused",
	CodeStoreTimeout:     "store-timeout",
	CodeStoreUnreachable: "store-unreachable",
	CodeAddressRefused:   "address-refused",
	CodeNodeBusy:         "node-busy",
	CodeNodeDraining:     "node-draining",
	CodeNodeStopped:      "node-stopped",
	CodeIngressStopped:   "ingress-stopped",
	CodeRevoked:          "revoked",
	CodeStoreReset:       "store-reset",
	CodeJobReset:         "job-reset",
	CodeLanesLost:        "lanes-lost",
	CodeEndRestarted:     "end-restarted",
	CodeUnknownBundle:    "unknown-bundle",
	CodeLaneRefused:      "lane-refused",
	CodeLaneSilent:       "lane-silent",
	CodeRecords:          "records",
	CodeCertificate:      "certificate",
	CodeDraining:         "draining",
	CodeMoved:            "moved",
	CodeIdle:             "idle",
}

// String is the name that logs, metrics and answers use. All codes of a newer
// peer have one name: a peer must not make up labels of metrics.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return "unknown-code"
}

// RefusedError is the node's answer to a stream that it did not open. The
// connector's callback returns one to choose the code and the text that the job
// reads; any other error is sent as [CodeInternal].
type RefusedError struct {
	Reason Code
	Text   string // for people; at most maxText bytes travel
}

func (e *RefusedError) Error() string {
	if e.Text == "" {
		return "bundle: refused: " + e.Reason.String()
	}
	return fmt.Sprintf("bundle: refused: %s: %s", e.Reason, e.Text)
}

// Code is the name of the reason.
func (e *RefusedError) Code() string { return e.Reason.String() }

// ResetError is the end of a stream that did not end well.
type ResetError struct {
	Reason Code
	Remote bool // the far end said so; false when this end found out
}

func (e *ResetError) Error() string {
	if e.Remote {
		return "bundle: stream reset by the far end: " + e.Reason.String()
	}
	return "bundle: stream reset: " + e.Reason.String()
}

// Code is the name of the reason.
func (e *ResetError) Code() string { return e.Reason.String() }

// EndError is the end of a whole bundle or of one lane.
type EndError struct {
	Reason Code
	Err    error // what was seen, where there is something
}

func (e *EndError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("bundle: over: %s: %v", e.Reason, e.Err)
	}
	return "bundle: over: " + e.Reason.String()
}

// Unwrap gives what was seen.
func (e *EndError) Unwrap() error { return e.Err }

// Code is the name of the reason.
func (e *EndError) Code() string { return e.Reason.String() }

// reasonOf is the code of an error of this package.
func reasonOf(err error) Code {
	var end *EndError
	var bad *protocolError
	switch {
	case errors.As(err, &end):
		return end.Reason
	case errors.As(err, &bad):
		return bad.reason
	}
	return CodeInternal
}
