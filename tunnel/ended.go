package tunnel

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Names say what a stream was, to whoever is told of its end. Who says it the
// certificate proves; what an end says about itself and about others is checked
// against that.
type Names struct {
	Ingress string `json:"ingress"` // identity of the one end
	Node    string `json:"node"`    // and of the other
	Store   string `json:"store"`
	Job     string `json:"job"`
	Run     string `json:"run"`
}

// End is how a stream ended, as one end saw it: with its names, one half of the
// activity record.
type End struct {
	UUID [16]byte
	// Lasted is how long the stream lasted, Age how long ago it ended when the
	// message was sent, in microseconds on the wire: clocks need not agree.
	Lasted, Age time.Duration
	// Read is from the store, written to it, as this end knows it; CRC-32C
	// (Castagnoli) of each direction's bytes.
	BytesRead, BytesWritten   int64
	ReadCRC32C, WrittenCRC32C uint32
	Resumes, Stalls, Lanes    int
	Reason                    bundle.Code
	Remote                    bool // the other end gave the reason
	Refused                   bool // of a node: the dial was refused for that reason, there was no stream

	at time.Time // when it ended, by this machine's clock
}

// Ended is the end of a stream with its names.
type Ended struct {
	Names
	End
}

// EndAtIngress is an ingress' report as its relay learns it.
func EndAtIngress(r bundle.Report) End {
	e := end(r)
	e.BytesRead, e.ReadCRC32C, e.BytesWritten, e.WrittenCRC32C = r.Received, r.ReceivedCRC, r.Sent, r.SentCRC
	return e
}

// EndAtNode is a node's.
func EndAtNode(r bundle.Report) End {
	e := end(r)
	e.BytesRead, e.ReadCRC32C, e.BytesWritten, e.WrittenCRC32C = r.Sent, r.SentCRC, r.Received, r.ReceivedCRC
	return e
}

// RefusedAtNode is a dial that a node refused just now.
func RefusedAtNode(uuid [16]byte, reason bundle.Code) End {
	return End{UUID: uuid, Reason: reason, Refused: true, at: time.Now()}
}

func end(r bundle.Report) End {
	return End{
		UUID: r.UUID, Lasted: max(r.End.Sub(r.Start), 0), at: r.End,
		Resumes: r.Resumes, Stalls: r.Stalls, Lanes: r.Lanes, Reason: r.Reason, Remote: r.Remote,
	}
}

// Ends reports streams that are over, to any relay of the instance. It answers
// when it has them on its disk.
type Ends struct {
	Groups []EndsOf `json:"groups"`
}

// EndsOf are ends of streams with the same names.
type EndsOf struct {
	Names
	Ends []byte `json:"ends"` // of [EndSize] bytes each, big endian
}

// EndSize is how many bytes an end has on the wire: uuid(16) age(8) lasted(8)
// read(8) written(8) read_crc32c(4) written_crc32c(4) resumes(4) stalls(4)
// lanes(2) reason(2) flags(1).
const EndSize = 69

// Flags of an end.
const (
	endRemote  = 1 // the other end gave the reason
	endRefused = 2 // the dial was refused
)

// AppendEnd encodes an end.
func AppendEnd(b []byte, e End) []byte {
	b = append(b, e.UUID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Age.Microseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Lasted.Microseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.BytesRead))
	b = binary.BigEndian.AppendUint64(b, uint64(e.BytesWritten))
	b = binary.BigEndian.AppendUint32(b, e.ReadCRC32C)
	b = binary.BigEndian.AppendUint32(b, e.WrittenCRC32C)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Resumes))
	b = binary.BigEndian.AppendUint32(b, uint32(e.Stalls))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Lanes))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Reason))
	var flags byte
	if e.Remote {
		flags |= endRemote
	}
	if e.Refused {
		flags |= endRefused
	}
	return append(b, flags)
}

// maxMicroseconds is the longest time that a [time.Duration] holds.
const maxMicroseconds = uint64(1<<63-1) / 1000

// Decode gives the ends of the group; the numbers may be anything.
func (g EndsOf) Decode() ([]End, error) {
	if len(g.Ends)%EndSize != 0 {
		return nil, errors.New("tunnel: ends of streams of another size")
	}
	list := make([]End, 0, len(g.Ends)/EndSize)
	for b := g.Ends; len(b) > 0; b = b[EndSize:] {
		e := End{
			UUID:      [16]byte(b),
			Age:       time.Duration(min(binary.BigEndian.Uint64(b[16:]), maxMicroseconds)) * time.Microsecond,
			Lasted:    time.Duration(min(binary.BigEndian.Uint64(b[24:]), maxMicroseconds)) * time.Microsecond,
			BytesRead: int64(binary.BigEndian.Uint64(b[32:])), BytesWritten: int64(binary.BigEndian.Uint64(b[40:])),
			ReadCRC32C: binary.BigEndian.Uint32(b[48:]), WrittenCRC32C: binary.BigEndian.Uint32(b[52:]),
			Resumes: int(binary.BigEndian.Uint32(b[56:])), Stalls: int(binary.BigEndian.Uint32(b[60:])),
			Lanes: int(binary.BigEndian.Uint16(b[64:])), Reason: bundle.Code(binary.BigEndian.Uint16(b[66:])), Remote: b[68]&endRemote != 0, Refused: b[68]&endRefused != 0,
		}
		list = append(list, e)
	}
	return list, nil
}

// EndsTaken answers Ends: all were taken but those that are listed, which the
// relay will never take.
type EndsTaken struct {
	Refused []EndRefused `json:"refused,omitempty"`
}

// EndRefused are ends that a relay does not take: so many of a group, for one
// reason.
type EndRefused struct {
	Group int    `json:"group"`
	Ends  int    `json:"ends"`
	Code  string `json:"code"`
}
