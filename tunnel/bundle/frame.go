package bundle

import (
	"encoding/binary"
	"fmt"
)

// version is the protocol version that HELLO carries.
const version = 1

// frameType is the first byte of a frame. Each frame is
//
//	type     1 byte
//	length   3 bytes, big endian, of what follows
//	body     length bytes
//
// and all numbers in bodies are big endian.
type frameType uint8

const (
	// version(1) flags(1) role(1) zero(1) bundle(16) incarnation(8) mac(32) [secret(16) if flags&1]
	frameHello frameType = 1
	// stream(8) uuid(16) credit(8) grant(rest)
	frameOpen frameType = 2
	// stream(8) credit(8)
	frameOpened frameType = 3
	// stream(8) code(2) text(rest)
	frameRefused frameType = 4
	// stream(8) offset(8) bytes(rest)
	frameData frameType = 5
	// stream(8) consumed(8) credit(8)
	frameAck frameType = 6
	// stream(8) final(8) crc32c(4)
	frameFin frameType = 7
	// stream(8)
	frameFinAck frameType = 8
	// stream(8) code(2) offset(8)
	frameRst frameType = 9
	// taken(8): bytes of frames taken off this lane, LACK and HELLO not counted
	frameLack frameType = 10
	// nonce(8)
	framePing frameType = 11
	// nonce(8)
	framePong frameType = 12
	// code(2): 0 this lane only, else the whole bundle is over
	frameGoAway frameType = 13
	// code(2): why the node wants another lane instead of this one
	frameReplace frameType = 14
	// lanes(2) most(2): direct lanes for bulk that the node would use, and allows
	frameLanes frameType = 15
)

var frameNames = map[frameType]string{
	frameHello: "HELLO", frameOpen: "OPEN", frameOpened: "OPENED", frameRefused: "REFUSED",
	frameData: "DATA", frameAck: "ACK", frameFin: "FIN", frameFinAck: "FIN_ACK", frameRst: "RST",
	frameLack: "LACK", framePing: "PING", framePong: "PONG", frameGoAway: "GOAWAY", frameReplace: "REPLACE",
	frameLanes: "LANES",
}

func (t frameType) String() string {
	if name, ok := frameNames[t]; ok {
		return name
	}
	return fmt.Sprintf("frame type %d", uint8(t))
}

const (
	headerSize     = 4
	dataHeaderSize = 16                          // of a DATA body, before its bytes
	headroom       = headerSize + dataHeaderSize // that a chunk keeps before its bytes
	helloSize      = 60
	secretSize     = 16
	helloSecret    = 1 // flag: the secret follows

	roleIngress = 1
	roleNode    = 2
)

// bodyRange is the least and the most bytes of each type's body.
var bodyRange = map[frameType][2]int{
	frameHello:   {helloSize, helloSize + secretSize},
	frameOpen:    {32, 32 + maxGrant},
	frameOpened:  {16, 16},
	frameRefused: {10, 10 + maxText},
	frameData:    {dataHeaderSize + 1, dataHeaderSize + maxChunk},
	frameAck:     {24, 24},
	frameFin:     {20, 20},
	frameFinAck:  {8, 8},
	frameRst:     {18, 18},
	frameLack:    {8, 8},
	framePing:    {8, 8},
	framePong:    {8, 8},
	frameGoAway:  {2, 2},
	frameReplace: {2, 2},
	frameLanes:   {4, 4},
}

// sizes is bodyRange for the reader, by type.
var sizes = func() (t [256][2]int) {
	for typ, r := range bodyRange {
		t[typ] = r
	}
	return t
}()

// protocolError is a frame that the protocol forbids.
type protocolError struct {
	reason Code
	what   string
}

func (e *protocolError) Error() string { return "bundle: " + e.reason.String() + ": " + e.what }

func violation(format string, args ...any) error {
	return &protocolError{CodeProtocol, fmt.Sprintf(format, args...)}
}

// parseHeader checks a frame's header against the type's bounds, before
// anything is allocated for it.
func parseHeader(h []byte) (typ frameType, length int, err error) {
	typ = frameType(h[0])
	length = int(h[1])<<16 | int(h[2])<<8 | int(h[3])
	r := sizes[typ]
	if r[1] == 0 {
		return typ, 0, violation("unknown %v", typ)
	}
	if length < r[0] || length > r[1] {
		return typ, 0, violation("%v of %d bytes", typ, length)
	}
	return typ, length, nil
}

func appendHeader(b []byte, typ frameType, length int) []byte {
	return append(b, byte(typ), byte(length>>16), byte(length>>8), byte(length))
}

func appendOpen(b []byte, stream uint64, uuid [16]byte, credit uint64, grant string) []byte {
	b = appendHeader(b, frameOpen, 32+len(grant))
	b = binary.BigEndian.AppendUint64(b, stream)
	b = append(b, uuid[:]...)
	b = binary.BigEndian.AppendUint64(b, credit)
	return append(b, grant...)
}

func appendOpened(b []byte, stream, credit uint64) []byte {
	b = appendHeader(b, frameOpened, 16)
	b = binary.BigEndian.AppendUint64(b, stream)
	return binary.BigEndian.AppendUint64(b, credit)
}

func appendRefused(b []byte, stream uint64, code Code, text string) []byte {
	b = appendHeader(b, frameRefused, 10+len(text))
	b = binary.BigEndian.AppendUint64(b, stream)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, text...)
}

// putDataHeader writes a DATA frame's header into a chunk's headroom.
func putDataHeader(b []byte, stream, offset uint64, n int) {
	length := dataHeaderSize + n
	b[0], b[1], b[2], b[3] = byte(frameData), byte(length>>16), byte(length>>8), byte(length)
	binary.BigEndian.PutUint64(b[4:], stream)
	binary.BigEndian.PutUint64(b[12:], offset)
}

func appendAck(b []byte, stream, consumed, credit uint64) []byte {
	b = appendHeader(b, frameAck, 24)
	b = binary.BigEndian.AppendUint64(b, stream)
	b = binary.BigEndian.AppendUint64(b, consumed)
	return binary.BigEndian.AppendUint64(b, credit)
}

func appendFin(b []byte, stream, final uint64, crc uint32) []byte {
	b = appendHeader(b, frameFin, 20)
	b = binary.BigEndian.AppendUint64(b, stream)
	b = binary.BigEndian.AppendUint64(b, final)
	return binary.BigEndian.AppendUint32(b, crc)
}

func appendFinAck(b []byte, stream uint64) []byte {
	b = appendHeader(b, frameFinAck, 8)
	return binary.BigEndian.AppendUint64(b, stream)
}

func appendRst(b []byte, stream uint64, code Code, offset uint64) []byte {
	b = appendHeader(b, frameRst, 18)
	b = binary.BigEndian.AppendUint64(b, stream)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return binary.BigEndian.AppendUint64(b, offset)
}

// appendNumber is the shape of LACK, PING and PONG.
func appendNumber(b []byte, typ frameType, n uint64) []byte {
	b = appendHeader(b, typ, 8)
	return binary.BigEndian.AppendUint64(b, n)
}

func appendGoAway(b []byte, code Code) []byte {
	b = appendHeader(b, frameGoAway, 2)
	return binary.BigEndian.AppendUint16(b, uint16(code))
}

func appendReplace(b []byte, reason Code) []byte {
	b = appendHeader(b, frameReplace, 2)
	return binary.BigEndian.AppendUint16(b, uint16(reason))
}

func appendLanes(b []byte, lanes, most int) []byte {
	b = appendHeader(b, frameLanes, 4)
	b = binary.BigEndian.AppendUint16(b, uint16(lanes))
	return binary.BigEndian.AppendUint16(b, uint16(most))
}

// hello is the body of a HELLO.
type hello struct {
	role        byte
	bundle      [16]byte
	incarnation uint64
	mac         [32]byte
	secret      *[secretSize]byte // only in the first lane, ingress to node
}

func appendHello(b []byte, h hello) []byte {
	n, flags := helloSize, byte(0)
	if h.secret != nil {
		n, flags = n+secretSize, helloSecret
	}
	b = appendHeader(b, frameHello, n)
	b = append(b, version, flags, h.role, 0)
	b = append(b, h.bundle[:]...)
	b = binary.BigEndian.AppendUint64(b, h.incarnation)
	b = append(b, h.mac[:]...)
	if h.secret != nil {
		b = append(b, h.secret[:]...)
	}
	return b
}

func parseHello(b []byte) (hello, error) {
	if b[0] != version {
		return hello{}, violation("HELLO of version %d, this end speaks %d", b[0], version)
	}
	flags := b[1]
	h := hello{role: b[2], incarnation: binary.BigEndian.Uint64(b[20:])}
	copy(h.bundle[:], b[4:20])
	copy(h.mac[:], b[28:60])
	switch {
	case flags&^helloSecret != 0 || b[3] != 0:
		return hello{}, violation("HELLO with unknown flags")
	case h.role != roleIngress && h.role != roleNode:
		return hello{}, violation("HELLO of role %d", h.role)
	case flags == helloSecret && len(b) == helloSize+secretSize:
		h.secret = new([secretSize]byte)
		copy(h.secret[:], b[helloSize:])
	case flags != 0 || len(b) != helloSize:
		return hello{}, violation("HELLO of %d bytes with flags %d", len(b), flags)
	}
	return h, nil
}
