package bundle

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestBadFramesOfAnIngress: what an ingress says on one of two lanes that no honest one says ends that lane, and dials
// nothing that was not opened, nor anything twice.
func TestBadFramesOfAnIngress(t *testing.T) {
	open := appendOpen(nil, 1, [16]byte{1}, 1<<20, "g")
	for _, tc := range []struct {
		name   string
		frames [][]byte
		dials  int
		lane   Code // CodeOK: it goes on
	}{
		{"an OPEN", [][]byte{open}, 1, CodeOK},
		{"an OPEN twice", [][]byte{open, open}, 1, CodeOK},
		{"an OPEN of the same number for something else", [][]byte{open, appendOpen(nil, 1, [16]byte{2}, 1, "h")}, 1, CodeOK},
		{"an OPEN after its RST", [][]byte{appendRst(nil, 1, CodeJobReset, 0), open}, 0, CodeOK},
		{"an OPEN of a stream that is over", [][]byte{open, appendRst(nil, 1, CodeJobReset, 0), open}, 1, CodeOK},
		{"an OPEN without a number", [][]byte{appendOpen(nil, 0, [16]byte{1}, 1, "g")}, 0, CodeProtocol},
		{"an OPEN far ahead", [][]byte{appendOpen(nil, 1<<40, [16]byte{1}, 1, "g")}, 0, CodeProtocol},
		{"DATA before OPEN", [][]byte{data(1, 0, "x")}, 0, CodeProtocol},
		{"an ACK before OPEN", [][]byte{appendAck(nil, 1, 0, 1)}, 0, CodeProtocol},
		{"a FIN before OPEN", [][]byte{fin(1, "x")}, 0, CodeProtocol},
		{"a FIN_ACK before FIN", [][]byte{open, appendFinAck(nil, 1)}, 1, CodeProtocol},
		{"an OPENED", [][]byte{open, appendOpened(nil, 1, 1)}, 1, CodeProtocol},
		{"a REFUSED", [][]byte{open, appendRefused(nil, 1, CodeStoreRefused, "")}, 1, CodeProtocol},
		{"an RST of a good end", [][]byte{open, appendRst(nil, 1, CodeOK, 0)}, 1, CodeProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewRegistry()
				h := &hostile{t: t, role: roleIngress, pool: NewPool(4 << 20), spoiled: make(map[uint64]bool)}
				h.bundle, h.secret = [16]byte{2}, [secretSize]byte{1}
				dials := 0 // by one after the other
				h.node = NewNode(Config{Pool: h.pool, ResumeGrace: time.Minute, Metrics: NewMetrics(reg)}, func(context.Context, string, Request) (Socket, error) {
					dials++
					store, near := socketPair()
					h.running.Go(func() { _, _ = io.Copy(io.Discard, store) })
					return near, nil
				})
				h.join()
				h.join()
				for _, frame := range tc.frames {
					_ = h.lanes[0].SetWriteDeadline(time.Now().Add(time.Second))
					_, _ = h.lanes[0].Write(frame)
					synctest.Wait()
				}
				if dials != tc.dials {
					t.Errorf("dialled %d times, want %d", dials, tc.dials)
				}
				if n := countOf(t, reg, "ebbgate_bundle_lanes_ended_total", CodeProtocol); (n == 1) != (tc.lane == CodeProtocol) || n > 1 {
					t.Errorf("%v lanes ended for the protocol", n)
				}
				for _, lane := range h.lanes {
					_ = lane.Close()
				}
				h.node.Close(CodeNodeStopped)
				h.running.Wait()
				if used := h.pool.Used(); used != 0 {
					t.Errorf("%d bytes of the pool are still in use", used)
				}
			})
		})
	}
}

// TestBundlesOfOneIngress: one identity has so many bundles at a node and no more; another one has its own.
func TestBundlesOfOneIngress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := NewNode(Config{ResumeGrace: time.Minute}, nil)
		var lanes []net.Conn
		exporter, secret := make([]byte, 32), [secretSize]byte{1}
		enter := func(peer string, number int) <-chan error {
			near, far := net.Pipe()
			over := make(chan error, 1)
			go func() {
				over <- node.Serve(context.Background(), far, LaneInfo{Local: nodeID, Peer: peer, Exporter: exporter})
			}()
			id := [16]byte{byte(number), byte(number >> 8)}
			_, _ = near.Write(appendHello(nil, hello{role: roleIngress, bundle: id, secret: &secret, mac: mac(secret, roleIngress, id, exporter)}))
			go func() { _, _ = io.Copy(io.Discard, near) }()
			lanes = append(lanes, near)
			synctest.Wait()
			return over
		}
		stays := func(over <-chan error) {
			t.Helper()
			select {
			case err := <-over:
				t.Fatalf("bundle %d: %v", len(lanes), err)
			default:
			}
		}
		for n := range maxBundles {
			stays(enter(relayID, n))
		}
		if err := <-enter(relayID, maxBundles); reasonOf(err) != CodeLaneRefused {
			t.Errorf("one more: %v", err)
		}
		stays(enter(relayID+"-other", maxBundles))
		for _, lane := range lanes {
			_ = lane.Close()
		}
		node.Close(CodeNodeStopped)
	})
}
