//go:build linux

package storms

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// newClient is a rogue with the job's token.
func newClient(ctx context.Context, t *testing.T, p *path) *rogue {
	t.Helper()
	token, err := certs.ParseToken(p.token)
	if err != nil {
		t.Fatal(err)
	}
	return enrol(ctx, t, p, token.Pin, tunnel.Enrol{Kind: tunnel.EnrolJob, JobID: token.JobID, Secret: token.Secret})
}

// TestRogueLanes has a client with a good certificate break the protocol of bundles. Its stream or its lane ends with a
// reason that has a name, its other lanes and everybody else go on.
func TestRogueLanes(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "tls", limits{})
	m := newMeter(ctx, t, p)
	t.Run("storm", func(t *testing.T) { rogueLanes(ctx, t, p) })
	p.dial(ctx, t)
	p.talk(ctx, t)
	m.settle(ctx, t)
}

func rogueLanes(ctx context.Context, t *testing.T, p *path) {
	r := newClient(ctx, t, p)
	const credit, protocol, overlap, digest = 4, 2, 6, 5
	for _, carrier := range []tunnel.Carrier{tunnel.TLS, tunnel.QUIC} {
		s := r.session(ctx, t, carrier, tunnel.SessionConfig{Hello: tunnel.Hello{Role: tunnel.RoleClient}})
		other := r.lane(ctx, t, s)
		_ = write(other, other.open(1))
		other.opens(t)
		for _, c := range []struct {
			name string
			said func(credit uint64) []byte // after stream 1 is open
			code uint16                     // of the stream's reset; 0: the lane ends
		}{
			{"a byte beyond credit", func(credit uint64) []byte { return data(1, credit, 1) }, credit},
			{"an offset of 2^32", func(uint64) []byte { return data(1, 1<<32, 1) }, credit},
			{"an offset whose end overflows", func(uint64) []byte { return data(1, 1<<64-1, 2) }, credit},
			{"bytes twice that differ", func(uint64) []byte {
				return append(data(1, 10, 5), frame(5, number(1), number(10), []byte("other"))...)
			}, overlap},
			{"two ends that differ", func(uint64) []byte {
				return append(frame(7, number(1), number(100), make([]byte, 4)), frame(7, number(1), number(200), make([]byte, 4))...)
			}, protocol},
			{"bytes after the end", func(uint64) []byte {
				return append(frame(7, number(1), number(5), make([]byte, 4)), data(1, 5, 1)...)
			}, credit},
			{"an end before bytes that are there", func(uint64) []byte {
				return append(data(1, 0, 10), frame(7, number(1), number(5), make([]byte, 4))...)
			}, protocol},
			{"a digest of other bytes", func(uint64) []byte {
				return append(data(1, 0, 10), frame(7, number(1), number(10), make([]byte, 4))...)
			}, digest},
			{"an end before its bytes, which do not fit", func(uint64) []byte {
				return append(frame(7, number(1), number(10), make([]byte, 4)), data(1, 0, 10)...)
			}, digest},
			{"REPLACE from an ingress", func(uint64) []byte { return frame(14, []byte{0, 50}) }, 0},
			{"DATA for a stream that never was", func(uint64) []byte { return data(77, 0, 10) }, 0},
			{"an ACK of what was never sent", func(uint64) []byte { return frame(6, number(1), number(1<<32), number(1<<32)) }, 0},
			{"a LACK of what was never sent", func(uint64) []byte { return frame(10, number(1<<63)) }, 0},
			{"a frame of 16 MiB", func(uint64) []byte { return []byte{5, 0xff, 0xff, 0xff} }, 0},
			{"a frame of no type", func(uint64) []byte { return frame(99, number(1)) }, 0},
			{"a second HELLO", func(uint64) []byte { return hello(1, [16]byte{}, make([]byte, 16), nil, false) }, 0},
			{"OPENED from an ingress", func(uint64) []byte { return frame(3, number(1), number(1<<20)) }, 0},
			{"a stream far ahead", func(uint64) []byte { return frame(2, number(1<<40), make([]byte, 24), []byte("g")) }, 0},
		} {
			l := r.lane(ctx, t, s)
			_ = write(l, l.open(1))
			_ = write(l, c.said(l.opens(t)))
			if c.code == 0 {
				l.ends(t)
			} else if code := l.resets(t, 1); code != c.code {
				t.Errorf("%s over %s: reset with %d, want %d", c.name, carrier, code, c.code)
			}
			_ = l.Close()
		}
		openAndReset(t, r.lane(ctx, t, s))
		// the lane of the same client that was there before
		_ = write(other, data(1, 0, 5))
		if typ, body := other.next(t); typ != 5 && typ != 6 {
			t.Errorf("the client's other lane: a frame of type %d: %q", typ, body)
		}
		p.talk(ctx, t)
	}
	if out := p.connector.Output(); !strings.Contains(out, "protocol-violation") {
		t.Errorf("the connector does not say why lanes ended:\n%s", out)
	}
}

// openAndReset opens streams and resets each at once, before it is dialled and after.
func openAndReset(t *testing.T, l *lane) {
	t.Helper()
	const streams = 3000
	go func() {
		for i := range uint64(streams) {
			if write(l, append(l.open(i+1), reset(i+1)...)) != nil {
				return
			}
		}
		_ = write(l, l.open(streams+1))
	}()
	for {
		typ, body := l.next(t)
		switch {
		case typ == 0:
			t.Error("the lane ended while streams were opened and reset")
			return
		case typ == 3 && string(body[:8]) == string(number(streams+1)):
			_ = l.Close()
			return
		}
	}
}

// TestRogueControl has a client with a good certificate break the protocol of sessions.
func TestRogueControl(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "tls", limits{})
	m := newMeter(ctx, t, p)
	t.Run("storm", func(t *testing.T) { rogueControl(ctx, t, p) })
	m.grew(ctx, t, `ebbgate_relay_sessions_ended_total{reason="protocol-violation"}`, 10)
	m.grew(ctx, t, `ebbgate_relay_client_lanes_total{reason="lane-token-invalid"}`, 64)
	m.grew(ctx, t, `ebbgate_relay_client_lanes_total{reason="lanes-too-many"}`, 1)
	p.dial(ctx, t)
	p.talk(ctx, t)
	m.settle(ctx, t)
}

func rogueControl(ctx context.Context, t *testing.T, p *path) {
	r := newClient(ctx, t, p)
	for _, carrier := range []tunnel.Carrier{tunnel.TLS, tunnel.QUIC} {
		for name, said := range map[string][]byte{
			"a message of 2^32 bytes":      {0xff, 0xff, 0xff, 0xff},
			"a message of 64 KiB and one":  message(strings.Repeat(" ", 64<<10+1)),
			"a message of nothing":         {0, 0, 0, 0},
			"a message that is not JSON":   message("no"),
			"a message that is deep":       message(strings.Repeat("[", 20000)),
			"a message that ends too soon": message(`{"type":`),
		} {
			control := r.raw(ctx, t, carrier)
			_ = write(control, said)
			if _, err := io.Copy(io.Discard, control); isTimeout(err) {
				t.Errorf("%s over %s: the session goes on", name, carrier)
			}
		}
		// What is only unknown is answered.
		s := r.session(ctx, t, carrier, tunnel.SessionConfig{Hello: tunnel.Hello{Role: tunnel.RoleClient}})
		for _, typ := range []string{"", "no-such-type", tunnel.TypeRenewCert, tunnel.TypeEnrol, tunnel.TypeHeartbeat, strings.Repeat("x", 60000)} {
			if err := s.Call(ctx, typ, nil, nil); err == nil || s.Link().Err() != nil {
				t.Errorf("message %.20q over %s: %v; the session: %v", typ, carrier, err, s.Link().Err())
			}
		}
		manyLanes(ctx, t, r, carrier)
		badLanes(ctx, t, r, carrier)
		p.dial(ctx, t)
		p.talk(ctx, t)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(interface{ Timeout() bool })
	return ok && timeout.Timeout()
}

// manyLanes opens more lanes than one session may have, and shakes no hands on them.
func manyLanes(ctx context.Context, t *testing.T, r *rogue, carrier tunnel.Carrier) {
	t.Helper()
	s := r.session(ctx, t, carrier, tunnel.SessionConfig{Hello: tunnel.Hello{Role: tunnel.RoleClient}})
	for range 20 {
		var granted tunnel.Granted
		if err := s.Call(ctx, tunnel.TypeGrant, tunnel.GrantRequest{Gateway: corp, Store: store, Run: "storm", Lanes: 4}, &granted); err != nil {
			t.Fatal(err)
		}
		for _, token := range granted.LaneTokens {
			if _, err := s.OpenLane(ctx, tunnel.Join{Token: token, Ingress: r.id.String(), Node: granted.Node}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Call(ctx, tunnel.TypeGrant, tunnel.GrantRequest{Gateway: corp, Store: store}, nil); err != nil {
		t.Errorf("after many lanes over %s: %v", carrier, err)
	}
	_ = s.Close("enough")
}

// badLanes opens lanes with tokens that are none until the relay has enough.
func badLanes(ctx context.Context, t *testing.T, r *rogue, carrier tunnel.Carrier) {
	t.Helper()
	s := r.session(ctx, t, carrier, tunnel.SessionConfig{Hello: tunnel.Hello{Role: tunnel.RoleClient}})
	for range 1000 {
		if _, err := s.OpenLane(ctx, tunnel.Join{Token: "00112233445566778899aabbccddeeff", Ingress: r.id.String(), Node: r.id.String()}); err != nil {
			break
		}
	}
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Errorf("a thousand lanes without a token over %s: the session goes on", carrier)
	}
}

// TestRogueNode has a node with a good certificate break the protocol towards the relay's own ingress.
func TestRogueNode(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	p := newPath(ctx, t, "quic", limits{})
	m := newMeter(ctx, t, p)
	t.Run("storm", func(t *testing.T) { rogueNode(ctx, t, p) })
	m.grew(ctx, t, `ebbgate_bundle_frames_dropped_total{reason="protocol-violation"}`, 3)
	p.dial(ctx, t)
	p.talk(ctx, t)
	m.settle(ctx, t)
}

func rogueNode(ctx context.Context, t *testing.T, p *path) {
	key, err := certs.ParseKey(p.keys.Key2)
	if err != nil {
		t.Fatal(err)
	}
	for name, said := range map[string][]byte{
		"rogue-opened": frame(3, number(7), number(1<<20)),
		"rogue-opens":  frame(2, number(1), make([]byte, 24), []byte("g")),
		"rogue-data":   data(1, 0, 10),
	} {
		r := enrol(ctx, t, p, key.Pin, tunnel.Enrol{Kind: tunnel.EnrolNode, GatewayID: key.GatewayID, Secret: key.Secret, Name: name})
		ended := make(chan error, 8)
		r.session(ctx, t, tunnel.TLS, tunnel.SessionConfig{
			Hello: tunnel.Hello{Role: tunnel.RoleControl, Incarnation: "1"},
			Lane: func(_ context.Context, s *tunnel.Session, _ tunnel.Join, stream tunnel.Stream) {
				ended <- answer(s, stream, said)
			},
		})
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			t.Errorf("%s: the relay opens no lane", name)
		}
		p.talk(ctx, t)
	}
}

// answer answers the relay's HELLO, says something, and waits for the lane's end.
func answer(s *tunnel.Session, stream tunnel.Stream, said []byte) error {
	defer func() { _ = stream.Close() }()
	_ = stream.SetDeadline(time.Now().Add(patience))
	var asked [4 + 60 + 16]byte
	if _, err := io.ReadFull(stream, asked[:]); err != nil {
		return err
	}
	exporter, err := s.LaneExporter(stream)
	if err != nil {
		return err
	}
	if err := write(stream, hello(2, [16]byte(asked[8:24]), asked[64:], exporter, false)); err != nil {
		return err
	}
	_ = write(stream, said)
	if _, err := io.Copy(io.Discard, stream); isTimeout(err) {
		return err
	}
	return nil
}
