package bundle

import (
	"context"
	"hash/crc32"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// data is a DATA frame.
func data(stream, offset uint64, bytes string) []byte {
	frame := make([]byte, headroom, headroom+len(bytes))
	putDataHeader(frame, stream, offset, len(bytes))
	return append(frame, bytes...)
}

// fin is a FIN for bytes.
func fin(stream uint64, bytes string) []byte {
	return appendFin(nil, stream, uint64(len(bytes)), crc32.Checksum([]byte(bytes), castagnoli))
}

// TestBadFrames: a node says on one of two lanes what no honest one says. The stream that it is about ends with a code that
// names it, or the lane does; either is counted, and what runs beside goes on to its good end.
func TestBadFrames(t *testing.T) {
	const text = "0123456789"
	for _, tc := range []struct {
		name   string
		frames [][]byte
		stream Code // of the stream that they are about
		lane   Code // of their lane; CodeOK: it goes on
	}{
		{"none", nil, CodeOK, CodeOK},
		{"the same bytes again", [][]byte{data(1, 5, "56789"), data(1, 5, "56789"), data(1, 0, "01234"), data(1, 0, "01234")}, CodeOK, CodeOK},
		{"an offset beyond credit", [][]byte{data(1, 1<<40, "x")}, CodeCredit, CodeOK},
		{"more bytes than credit", [][]byte{data(1, 0, string(make([]byte, initialCredit+1)))}, CodeCredit, CodeOK},
		{"an offset that wraps round", [][]byte{data(1, 1<<64-5, text)}, CodeCredit, CodeOK},
		{"bytes after the FIN's", [][]byte{fin(1, text), data(1, 5, text)}, CodeCredit, CodeOK},
		{"other bytes in the same place", [][]byte{data(1, 5, "56789"), data(1, 5, "5678X")}, CodeOverlap, CodeOK},
		{"fewer bytes in the same place", [][]byte{data(1, 5, "56789"), data(1, 5, "567")}, CodeOverlap, CodeOK},
		{"bytes across others' end", [][]byte{data(1, 5, "567"), data(1, 7, "789")}, CodeOverlap, CodeOK},
		{"bytes across others' begin", [][]byte{data(1, 5, "56789"), data(1, 3, "3456")}, CodeOverlap, CodeOK},
		{"bytes across what came", [][]byte{data(1, 0, "01234"), data(1, 3, "3456789")}, CodeOverlap, CodeOK},
		{"a FIN before what came", [][]byte{data(1, 0, text), fin(1, "012")}, CodeProtocol, CodeOK},
		{"a FIN before what is ahead", [][]byte{data(1, 5, "56789"), fin(1, "0123456")}, CodeProtocol, CodeOK},
		{"two FINs of other lengths", [][]byte{fin(1, text), fin(1, text+text)}, CodeProtocol, CodeOK},
		{"two FINs of other digests", [][]byte{fin(1, text), fin(1, "9876543210")}, CodeProtocol, CodeOK},
		{"another digest", [][]byte{data(1, 0, text), fin(1, "9876543210")}, CodeDigest, CodeOK},
		{"an RST", [][]byte{appendRst(nil, 1, CodeStoreReset, 0)}, CodeStoreReset, CodeOK},
		{"an ACK of what was not sent", [][]byte{appendAck(nil, 1, 1, 1<<20)}, CodeOK, CodeProtocol},
		{"credit without end", [][]byte{appendAck(nil, 1, 0, 1<<64-1)}, CodeOK, CodeOK},
		{"a LACK of what was not sent", [][]byte{appendNumber(nil, frameLack, 1<<40)}, CodeOK, CodeProtocol},
		{"a PONG that nobody asked for", [][]byte{appendNumber(nil, framePong, 1<<40)}, CodeOK, CodeOK},
		{"DATA for a stream that never was", [][]byte{data(9, 0, text)}, CodeOK, CodeProtocol},
		{"an OPEN", [][]byte{appendOpen(nil, 9, [16]byte{9}, 1, "")}, CodeOK, CodeProtocol},
		{"a second HELLO", [][]byte{appendHello(nil, hello{role: roleNode})}, CodeOK, CodeProtocol},
		{"a type that is none", [][]byte{{99, 0, 0, 0}}, CodeOK, CodeProtocol},
		{"a frame that is too short", [][]byte{{byte(frameAck), 0, 0, 1, 0}}, CodeOK, CodeProtocol},
		{"a frame that is too long", [][]byte{{byte(frameAck), 0xff, 0xff, 0xff}}, CodeOK, CodeProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewRegistry()
				h := &hostile{t: t, role: roleNode, pool: NewPool(4 << 20), spoiled: make(map[uint64]bool)}
				h.ingress = NewIngress(Config{Pool: h.pool, ResumeGrace: time.Minute, Metrics: NewMetrics(reg)})
				h.join()
				h.join()
				var reports [2]chan Report
				for i := range reports {
					job, near := socketPair()
					reports[i] = make(chan Report, 1)
					h.running.Go(func() {
						s, err := h.ingress.Open(context.Background(), Request{UUID: [16]byte{byte(i + 1)}})
						if err != nil {
							t.Error(err)
							return
						}
						reports[i] <- s.Carry(near, nil)
					})
					h.running.Go(func() { _, _ = io.Copy(io.Discard, job) })
					synctest.Wait()
					_, _ = h.lanes[1].Write(appendOpened(nil, uint64(i+1), 1<<20))
					synctest.Wait()
					_ = job.CloseWrite()
				}
				for _, frame := range tc.frames {
					_ = h.lanes[0].SetWriteDeadline(time.Now().Add(time.Second))
					_, _ = h.lanes[0].Write(frame)
					synctest.Wait()
				}
				for id := range uint64(2) { // both come to a good end, if they can
					for _, frame := range [][]byte{data(id+1, 0, text), fin(id+1, text), appendFinAck(nil, id+1)} {
						_, _ = h.lanes[1].Write(frame)
						synctest.Wait()
					}
				}
				if r := <-reports[0]; r.Reason != tc.stream || r.Reason == CodeOK && r.Received != int64(len(text)) {
					t.Errorf("the stream ended as %v with %d bytes, want %v", r.Reason, r.Received, tc.stream)
				}
				if r := <-reports[1]; r.Reason != CodeOK || r.Received != int64(len(text)) {
					t.Errorf("the other one ended as %v with %d bytes", r.Reason, r.Received)
				}
				want := 2
				if tc.lane != CodeOK {
					want--
					if n := countOf(t, reg, "ebbgate_bundle_lanes_ended_total", tc.lane); n != 1 {
						t.Errorf("%v lanes ended as %v", n, tc.lane)
					}
				}
				if got := h.ingress.Lanes(); got != want {
					t.Errorf("%d lanes are left, want %d", got, want)
				}
				if n := countOf(t, reg, "ebbgate_bundle_streams_ended_total", tc.stream); tc.stream != CodeOK && n != 1 {
					t.Errorf("%v streams ended as %v", n, tc.stream)
				}
				for _, conn := range h.lanes {
					_ = conn.Close()
				}
				h.ingress.Close(CodeIngressStopped)
				h.running.Wait()
				if used := h.pool.Used(); used != 0 {
					t.Errorf("%d bytes of the pool are still in use", used)
				}
			})
		})
	}
}

// TestBadHello: a lane whose HELLO does not prove the bundle's secret over this very lane is refused, at either end, and
// the bundle goes on.
func TestBadHello(t *testing.T) {
	for name, spoil := range map[string]func(h *hello, exporter []byte){
		"another secret":   func(h *hello, _ []byte) { h.mac = mac([secretSize]byte{9}, h.role, h.bundle, make([]byte, 32)) },
		"another lane's":   func(h *hello, _ []byte) { h.mac = mac([secretSize]byte{1}, h.role, h.bundle, make([]byte, 31)) },
		"the other role's": func(h *hello, _ []byte) { h.mac = mac([secretSize]byte{1}, 3-h.role, h.bundle, make([]byte, 32)) },
		"a new secret": func(h *hello, _ []byte) {
			h.secret = &[secretSize]byte{9}
			h.mac = mac(*h.secret, h.role, h.bundle, make([]byte, 32))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewRegistry()
				h := &hostile{t: t, role: roleIngress, pool: NewPool(1 << 20), spoiled: make(map[uint64]bool)}
				h.bundle, h.secret = [16]byte{2}, [secretSize]byte{1}
				h.node = NewNode(Config{Pool: h.pool, ResumeGrace: time.Minute, Metrics: NewMetrics(reg)}, nil)
				h.join()
				near, far := net.Pipe()
				refused := make(chan error, 1)
				go func() {
					refused <- h.node.Serve(context.Background(), far, LaneInfo{Local: nodeID, Peer: relayID, Exporter: make([]byte, 32)})
				}()
				said := hello{role: roleIngress, bundle: h.bundle, mac: mac(h.secret, roleIngress, h.bundle, make([]byte, 32))}
				spoil(&said, nil)
				_, _ = near.Write(appendHello(nil, said))
				go func() { _, _ = io.Copy(io.Discard, near) }()
				if err := <-refused; reasonOf(err) != CodeLaneRefused {
					t.Errorf("got %v", err)
				}
				if n := countOf(t, reg, "ebbgate_bundle_lanes_ended_total", CodeLaneRefused); n != 1 {
					t.Errorf("%v lanes were counted as refused", n)
				}
				h.lanes[0].Close()
				_ = near.Close()
				h.node.Close(CodeNodeStopped)
				h.running.Wait()
			})
		})
	}
	t.Run("of the node", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := NewIngress(Config{ResumeGrace: time.Minute})
			near, far := net.Pipe()
			refused := make(chan error, 1)
			go func() {
				refused <- b.Join(context.Background(), far, LaneInfo{Local: relayID, Peer: nodeID, Exporter: make([]byte, 32)})
			}()
			asked, err := readHello(near, roleIngress)
			if err != nil || asked.secret == nil {
				t.Fatal(err)
			}
			_, _ = near.Write(appendHello(nil, hello{role: roleNode, bundle: asked.bundle, mac: mac(*asked.secret, roleIngress, asked.bundle, make([]byte, 32))}))
			if err := <-refused; reasonOf(err) != CodeLaneRefused || b.Lanes() != 0 {
				t.Errorf("got %v with %d lanes", err, b.Lanes())
			}
			_ = near.Close()
			b.Close(CodeIngressStopped)
		})
	})
}

// countOf is a counter's value.
func countOf(t *testing.T, reg *prometheus.Registry, name string, reason Code) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == reason.String() {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
