package bundle

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"testing"
	"time"
)

// TestGoldenFrames holds the bytes of every frame.
func TestGoldenFrames(t *testing.T) {
	var id [16]byte
	for i := range id {
		id[i] = byte(i)
	}
	data := make([]byte, headroom+3)
	copy(data[headroom:], "abc")
	putDataHeader(data, 7, 0x0102, 3)
	secret := id
	for name, test := range map[string]struct {
		got  []byte
		want string
	}{
		"OPEN":    {appendOpen(nil, 1, id, 65536, "g"), "02000021" + "0000000000000001" + "000102030405060708090a0b0c0d0e0f" + "0000000000010000" + "67"},
		"OPENED":  {appendOpened(nil, 1, 2), "03000010" + "0000000000000001" + "0000000000000002"},
		"REFUSED": {appendRefused(nil, 1, CodeStoreRefused, "no"), "0400000c" + "0000000000000001" + "0015" + "6e6f"},
		"DATA":    {data, "05000013" + "0000000000000007" + "0000000000000102" + "616263"},
		"ACK":     {appendAck(nil, 1, 2, 3), "06000018" + "0000000000000001" + "0000000000000002" + "0000000000000003"},
		"FIN":     {appendFin(nil, 1, 2, 0xdeadbeef), "07000014" + "0000000000000001" + "0000000000000002" + "deadbeef"},
		"FIN_ACK": {appendFinAck(nil, 1), "08000008" + "0000000000000001"},
		"RST":     {appendRst(nil, 1, CodeJobReset, 9), "09000012" + "0000000000000001" + "0029" + "0000000000000009"},
		"LACK":    {appendNumber(nil, frameLack, 5), "0a000008" + "0000000000000005"},
		"PING":    {appendNumber(nil, framePing, 5), "0b000008" + "0000000000000005"},
		"PONG":    {appendNumber(nil, framePong, 5), "0c000008" + "0000000000000005"},
		"GOAWAY":  {appendGoAway(nil, CodeNodeStopped), "0d000002" + "0020"},
		"HELLO": {
			appendHello(nil, hello{role: roleIngress, bundle: id, incarnation: 5, secret: &secret}),
			"0100004c" + "01010100" + "000102030405060708090a0b0c0d0e0f" + "0000000000000005" + "0000000000000000000000000000000000000000000000000000000000000000" + "000102030405060708090a0b0c0d0e0f",
		},
	} {
		if got := hex.EncodeToString(test.got); got != test.want {
			t.Errorf("%s is\n%s, want\n%s", name, got, test.want)
		}
	}
}

func TestHelloRoundTrip(t *testing.T) {
	for _, secret := range []*[16]byte{nil, {1, 2, 3}} {
		h := hello{role: roleNode, bundle: [16]byte{9}, incarnation: 1 << 60, mac: [32]byte{4}, secret: secret}
		got, err := parseHello(appendHello(nil, h)[headerSize:])
		if err != nil || got.role != h.role || got.bundle != h.bundle || got.incarnation != h.incarnation || got.mac != h.mac || (got.secret == nil) != (secret == nil) {
			t.Errorf("%+v became %+v, %v", h, got, err)
		}
	}
}

func FuzzParseHello(f *testing.F) {
	f.Add(appendHello(nil, hello{role: 1})[headerSize:])
	f.Add(appendHello(nil, hello{role: 2, secret: new([16]byte)})[headerSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bodyRange[frameHello]
		if len(b) < r[0] || len(b) > r[1] {
			return
		}
		h, err := parseHello(b)
		if err == nil && !bytes.Equal(appendHello(nil, h)[headerSize:], b) {
			t.Errorf("%x is read but not written back", b)
		}
	})
}

// FuzzFrames throws bytes at a node after an honest HELLO. Whatever they are,
// the lane ends or lives, and nothing else happens.
func FuzzFrames(f *testing.F) {
	f.Add(appendOpen(nil, 1, [16]byte{1}, 65536, "g"))
	f.Add(append(appendOpen(nil, 1, [16]byte{1}, 65536, "g"), appendRst(nil, 1, CodeJobReset, 0)...))
	f.Add(append(appendRst(nil, 1, CodeJobReset, 0), appendOpen(nil, 1, [16]byte{1}, 65536, "g")...))
	f.Add(appendNumber(appendNumber(nil, framePing, 1), frameLack, 1<<63))
	f.Add(appendAck(nil, 1, 1, 1))
	f.Add([]byte{5, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		node := NewNode(Config{Pool: NewPool(1 << 20)}, func(context.Context, string, Request) (Socket, error) {
			a, _ := socketPair()
			return a, nil
		})
		x, y := net.Pipe()
		exporter := make([]byte, 32)
		secret := [16]byte{1}
		over := make(chan error, 1)
		go func() {
			over <- node.Serve(context.Background(), y, LaneInfo{Local: nodeID, Peer: relayID, Exporter: exporter})
		}()
		_ = x.SetDeadline(time.Now().Add(10 * time.Second))
		h := hello{role: roleIngress, bundle: [16]byte{2}, secret: &secret}
		h.mac = mac(secret, roleIngress, h.bundle, exporter)
		if _, err := x.Write(appendHello(nil, h)); err != nil {
			t.Fatal(err)
		}
		if _, err := readHello(x, roleNode); err != nil {
			t.Fatal(err)
		}
		answers := make(chan struct{})
		go func() {
			defer close(answers)
			buf := make([]byte, 4096)
			for {
				if _, err := x.Read(buf); err != nil {
					return
				}
			}
		}()
		_, _ = x.Write(b)
		x.Close()
		<-over
		<-answers
		node.Close(CodeNodeStopped)
	})
}
