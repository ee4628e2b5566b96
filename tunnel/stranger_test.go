package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A message takes the memory of what came of it, not of what it says it has.
func TestMessageMemory(t *testing.T) {
	const times = 1000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		var e envelope
		err := readFrame(bytes.NewReader([]byte{0, 1, 0, 0, '{'}), maxMessage, &e)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("got %v", err)
		}
	}
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) / times; took > 16<<10 {
		t.Errorf("a message of one byte took %d bytes of memory", took)
	}
}

// A peer without a certificate has one stream, whatever the carrier.
func TestStrangersHaveNoLanes(t *testing.T) {
	p := newPKI(t)
	h := newHost(t, p)
	conn, err := net.Dial("tcp", net.JoinHostPort(h.endpoint.Host, strconv.Itoa(h.endpoint.TLSPort)))
	if err != nil {
		t.Fatal(err)
	}
	link, err := DialTLS(t.Context(), conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close("test over")
	far := <-h.links
	s := NewSession(far, SessionConfig{Lane: func(_ context.Context, _ *Session, _ Join, stream Stream) {
		t.Error("a stranger has a lane")
		_ = stream.Close()
	}})
	over := make(chan error, 1)
	go func() {
		_, err := s.Start(context.Background())
		if err == nil {
			err = s.Run(context.Background())
		}
		over <- err
	}()
	mine := NewSession(link, SessionConfig{Initiator: true, Hello: Hello{Role: RoleEnrol}})
	if _, err := mine.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// One waits to be accepted, for ever; the next one is refused.
	for range 2 {
		lane, err := mine.OpenLane(t.Context(), Join{Node: "n"})
		if err != nil {
			break // refused so fast
		}
		defer lane.Close()
		if stream := lane.StreamID(); stream < 5 {
			continue
		}
		_ = lane.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := lane.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("the stream is still there: %v", err)
		}
	}
	_ = link.Close("test over")
	<-over
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// deafPeer says hello and then what it is told, reads nothing after the answer to
// its hello, and goes. It returns what the session ended with, and how many
// goroutines there were when everything was said.
func deafPeer(t *testing.T, said ...envelope) (goroutines int, ended error) {
	near, far := net.Pipe()
	s := NewSession(newPipeLink(near), SessionConfig{Handle: func(context.Context, *Session, string, json.RawMessage) (any, error) {
		return struct{}{}, nil
	}})
	var peer sync.WaitGroup
	peer.Go(func() {
		defer far.Close()
		hello, _ := encodeMessage(envelope{Type: TypeHello}, Hello{Version: protocolVersion})
		_, _ = far.Write(hello)
		var answer envelope
		_ = readFrame(far, maxMessage, &answer)
		for _, e := range said {
			message, _ := encodeMessage(e, nil)
			if _, err := far.Write(message); err != nil {
				return
			}
		}
		goroutines = runtime.NumGoroutine()
	})
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended = s.Run(t.Context())
	peer.Wait()
	return goroutines, ended
}

func TestFloodsAreBounded(t *testing.T) {
	t.Run("requests", func(t *testing.T) {
		var said []envelope
		for i := range 1000 {
			said = append(said, envelope{Type: TypeGrant, ID: uint64(i + 1)})
		}
		_, err := deafPeer(t, said...)
		var coded *Error
		if !errors.As(err, &coded) || coded.ErrCode != "flood" {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("pings", func(t *testing.T) {
		var said []envelope
		for i := range 10000 {
			said = append(said, envelope{Type: TypePing, ID: uint64(i + 1)})
		}
		if n, _ := deafPeer(t, said...); n > 500 {
			t.Errorf("%d goroutines answer pings", n)
		}
	})
}
