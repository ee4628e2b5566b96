package tunnel

import (
	"fmt"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Ended is what one end of a stream says about it when it is over: one half of
// the activity record. Who says it the certificate proves; what an end says about
// itself and about others is checked against that.
type Ended struct {
	UUID    string `json:"uuid"`    // of the stream, in groups of 8-4-4-4-12
	Ingress string `json:"ingress"` // identity of the one end
	Node    string `json:"node"`    // and of the other
	Store   string `json:"store"`
	Job     string `json:"job"`
	Run     string `json:"run"`
	// Seconds is how long the stream lasted, Age how long ago it ended when the
	// message was sent: clocks need not agree.
	Seconds float64 `json:"seconds"`
	Age     float64 `json:"age_seconds"`
	// Read is from the store, written to it, as this end knows it; CRC-32C
	// (Castagnoli) of each direction's bytes.
	BytesRead     int64  `json:"bytes_read"`
	BytesWritten  int64  `json:"bytes_written"`
	ReadCRC32C    uint32 `json:"read_crc32c"`
	WrittenCRC32C uint32 `json:"written_crc32c"`
	Resumes       int    `json:"resumes"`
	Stalls        int    `json:"stalls"`
	Lanes         int    `json:"lanes"`
	Reason        string `json:"reason"` // ok, or the code of its end
	Remote        bool   `json:"remote"` // the other end gave the reason

	at time.Time // when it ended, by this machine's clock
}

// EndedAtIngress is an ingress' report as its relay learns it; who and what the
// stream was for the caller adds.
func EndedAtIngress(r bundle.Report) Ended {
	e := ended(r)
	e.BytesRead, e.ReadCRC32C, e.BytesWritten, e.WrittenCRC32C = r.Received, r.ReceivedCRC, r.Sent, r.SentCRC
	return e
}

// EndedAtNode is a node's.
func EndedAtNode(r bundle.Report) Ended {
	e := ended(r)
	e.BytesRead, e.ReadCRC32C, e.BytesWritten, e.WrittenCRC32C = r.Sent, r.SentCRC, r.Received, r.ReceivedCRC
	return e
}

func ended(r bundle.Report) Ended {
	u := r.UUID
	return Ended{
		UUID:    fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]),
		Seconds: r.End.Sub(r.Start).Seconds(), at: r.End,
		Resumes: r.Resumes, Stalls: r.Stalls, Lanes: r.Lanes, Reason: r.Reason.String(), Remote: r.Remote,
	}
}

// Ends reports streams that are over, to any relay of the instance. It answers
// when it has them on its disk.
type Ends struct {
	Ends []Ended `json:"ends"`
}

// EndsTaken answers Ends: all were taken but those that are listed, which the
// relay will never take.
type EndsTaken struct {
	Refused []EndRefused `json:"refused,omitempty"`
}

// EndRefused is an end that a relay does not take.
type EndRefused struct {
	UUID   string `json:"uuid"`
	Reason string `json:"code"`
}
