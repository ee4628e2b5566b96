package client

import (
	"fmt"
	"net"
	"syscall"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Reasons of a [Report] that are not the code of a bad end.
const (
	ReasonOK   = "ok"   // both directions ended well, with the right length and digest
	ReasonOpen = "open" // the stream is not over
)

// Report says what one stream did. Read is from the store, written to it; what
// was written and never reached the store does not count once the stream is over.
type Report struct {
	UUID         string  `json:"uuid"` // names the stream at both ends and at the relay
	Target       string  `json:"target"`
	Seconds      float64 `json:"seconds"`
	BytesRead    int64   `json:"bytes_read"`
	BytesWritten int64   `json:"bytes_written"`
	// CRC-32C (Castagnoli) of each direction's bytes, eight hexadecimal digits;
	// empty while the stream is open. A direction that did not end has no digest
	// of its written bytes: 00000000.
	ReadCRC32C  string `json:"read_crc32c"`
	WriteCRC32C string `json:"written_crc32c"`
	Resumes     int    `json:"resumes"` // lanes that carried its bytes and died, or stood still, before its end
	Stalls      int    `json:"stalls"`  // times that written bytes waited longer than a second for the store
	Lanes       int    `json:"lanes"`   // lanes that carried its bytes, either way
	Reason      string `json:"reason"`  // ok, open, or why it was reset
	Remote      bool   `json:"remote"`  // the node gave the reason

	code bundle.Code
}

func reportOf(t Target, r bundle.Report) Report {
	return Report{
		UUID:         uuidText(r.UUID),
		Target:       t.String(),
		Seconds:      r.End.Sub(r.Start).Seconds(),
		BytesRead:    r.Received,
		BytesWritten: r.Sent,
		ReadCRC32C:   fmt.Sprintf("%08x", r.ReceivedCRC),
		WriteCRC32C:  fmt.Sprintf("%08x", r.SentCRC),
		Resumes:      r.Resumes,
		Stalls:       r.Stalls,
		Lanes:        r.Lanes,
		Reason:       r.Reason.String(),
		Remote:       r.Remote,
		code:         r.Reason,
	}
}

func uuidText(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// Err is nil for a stream that ended well or is open, else an [*Error].
func (r Report) Err() error {
	if r.Reason == ReasonOK || r.Reason == ReasonOpen {
		return nil
	}
	return r.err()
}

// badEnds say where a stream broke and what to do; what is missing broke at the
// node.
var badEnds = map[bundle.Code]struct{ hop, advice string }{
	bundle.CodeStoreReset:     {"store", "look into the store's log: it broke the connection off"},
	bundle.CodeLanesLost:      {"relay", "the way to the node was lost: see whether the relay and the connector are online, and start again"},
	bundle.CodeLaneSilent:     {"relay", "the way to the node was lost: see whether the relay and the connector are online, and start again"},
	bundle.CodeNodeStopped:    {"node", "the connector was stopped: start again when it, or another node, is online"},
	bundle.CodeEndRestarted:   {"node", "the connector was restarted: start again"},
	bundle.CodeRevoked:        {"registration", "ask who runs the relay for a new token"},
	bundle.CodeDigest:         {"node", "bytes were damaged on the way and not passed on: start again, and look at the memory of both machines"},
	bundle.CodeIngressStopped: {"relay", "this side stopped before the copy was over: start again"},
	bundle.CodeJobReset:       {"relay", "the job broke the connection off"},
}

// err is the end of a stream that is over; nil for a good one.
func (r Report) err() error {
	if r.code == bundle.CodeOK {
		return nil
	}
	end, ok := badEnds[r.code]
	if !ok {
		end.hop, end.advice = "node", "look into the logs of the relay and of the connector for the stream "+r.UUID
	}
	cause := error(syscall.ECONNRESET)
	if r.code == bundle.CodeJobReset || r.code == bundle.CodeIngressStopped {
		cause = net.ErrClosed
	}
	return &Error{
		code: r.code.String(), hop: end.hop, advice: end.advice, err: cause,
		message: fmt.Sprintf("%s: the stream did not end well (%s)", r.Target, r.Reason),
	}
}
