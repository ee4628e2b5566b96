//go:build unix

package renew

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/relay"
	"github.com/ebbgate/ebbgate/tunnel"
)

// forever is longer than any test.
var forever = relay.Lives{Relay: time.Hour, Node: time.Hour, Job: time.Hour}

// least is how many bytes each direction of a copy has; EBBGATE_RENEW_MB says another number of MiB.
var least = func() int64 {
	if n, err := strconv.ParseInt(os.Getenv("EBBGATE_RENEW_MB"), 10, 64); err == nil {
		return n << 20
	}
	return 16 << 20
}()

// TestCopyGoesOn: the lanes and sessions under two copies, of an ingress beside the job and of one in the relay, are
// replaced again and again, and the copies are the same, byte for byte, with no lane lost.
func TestCopyGoesOn(t *testing.T) {
	for _, test := range []struct {
		name, carrier, reason string
		records               uint64
		lives                 relay.Lives
	}{
		{"tls/records", "tls", "records", 600, forever},
		{"wss/records", "wss", "records", 600, forever},
		{"tls/certificate", "tls", "certificate", 1 << 24, relay.Lives{Relay: 6 * time.Second, Node: 8 * time.Second, Job: 6 * time.Second}},
		{"quic/certificate", "quic", "certificate", 1 << 24, relay.Lives{Relay: 6 * time.Second, Node: 8 * time.Second, Job: 6 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer tunnel.WearAfter(test.records)()
			c := newCompany(t, test.carrier, test.lives)
			c.copies(func() error {
				for _, program := range []string{"client", "connector", "relay"} {
					if n := c.count(program, "ebbgate_bundle_lanes_replaced_total", test.reason); n < 3 {
						return fmt.Errorf("%s: %v lanes were replaced for %s", program, n, test.reason)
					}
					if n := c.count(program, "ebbgate_bundle_lanes_replaced_total", "moved"); n < 1 && program == "connector" && test.reason == "certificate" {
						return fmt.Errorf("%s: %v lanes moved with their session", program, n)
					}
				}
				return nil
			})
		})
	}
}

// copies moves content both ways by both ingresses, until nothing is missing.
func (c *company) copies(missing func() error) {
	c.t.Helper()
	results, far := make(chan result, 2), make([]*progress, 0, 2)
	for _, address := range []string{c.forward, c.relay.Ports[0]} {
		conn, err := net.Dial("tcp", address)
		c.check(err)
		at := new(progress)
		far = append(far, at)
		go func() { results <- exchange(conn.(*net.TCPConn), upSeed, downSeed, c.store.enough, at) }()
	}
	began := time.Now()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		<-look.C
		err := missing()
		for _, at := range far {
			if at.bytes() < least {
				err = fmt.Errorf("%d bytes have come", at.bytes())
			}
		}
		if err == nil {
			break
		}
		if time.Since(began) > 3*time.Minute || len(results) > 0 {
			c.t.Error(err)
			break
		}
	}
	close(c.store.enough)
	took := time.Since(began)
	var sent, got [2]int64
	for range 2 {
		for i, r := range []result{<-results, <-c.store.results} {
			if r.err != nil {
				c.t.Error(r.err)
			}
			sent[i] += r.sent
			got[1-i] += r.got
		}
	}
	if sent != got {
		c.t.Errorf("%v bytes were sent, %v came", sent, got)
	}
	c.t.Logf("%d MB up, %d MB down in %v", sent[0]>>20, sent[1]>>20, took.Round(time.Millisecond))
	for _, program := range []string{"client", "connector", "relay"} {
		for _, reason := range []string{"records", "certificate", "moved", "draining"} {
			c.t.Logf("%s: %v replaced for %s", program, c.count(program, "ebbgate_bundle_lanes_replaced_total", reason), reason)
		}
		c.t.Logf("%s: %v chunks repeated, %v lanes lost, %v silent, %v suspect", program, c.count(program, "ebbgate_bundle_chunks_repeated_total", ""),
			c.count(program, "ebbgate_bundle_lanes_ended_total", "lanes-lost"), c.count(program, "ebbgate_bundle_lanes_ended_total", "lane-silent"),
			c.count(program, "ebbgate_bundle_lanes_suspected_total", ""))
	}
}
