//go:build unix

package faults

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestMoved: the connector's configuration names another carrier, or another proxy, in the middle of copies. Its sessions
// and lanes move there, new ones first: the copies go on and no lane is lost.
func TestMoved(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]struct {
		carrier string
		proxied bool
		to      []string // carriers, one after the other; of a proxied one, to another proxy each time
	}{
		"carrier": {"tls", false, []string{"wss", "quic", "tls"}},
		"proxy":   {"tls", true, []string{"tls", "wss"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t)
			o := options{carrier: move.carrier, metrics: rig.FreePort(t)}
			if move.proxied {
				o.proxy = "http://" + startProxy(ctx, t).addr
			}
			p := newPath(ctx, t, o)
			to := move.to
			disturbed(ctx, t, p, both, len(to), func() error {
				wanted := rig.Node{Status: "Online", Carrier: to[0]}
				if move.proxied {
					wanted.Proxy = startProxy(ctx, t).addr
					p.connector.Options.Proxy.URL = "http://" + wanted.Proxy
				}
				p.connector.Options.Carriers, to = to[:1], to[1:]
				if err := p.connector.Configure(); err != nil {
					return err
				}
				if err := p.connector.Signal(syscall.SIGHUP); err != nil {
					return err
				}
				_, err := p.relay.Await(ctx, p.gateway, node, func(n rig.Node) bool {
					return n.Status == wanted.Status && n.Carrier == wanted.Carrier && n.Proxy == wanted.Proxy
				})
				return err
			})
			if moved := count(t, o.metrics, `ebbgate_bundle_lanes_replaced_total{reason="moved"}`); moved < float64(len(move.to)) {
				t.Errorf("%v lanes moved", moved)
			}
			for _, reason := range []string{"lanes-lost", "lane-silent"} {
				if lost := count(t, o.metrics, fmt.Sprintf("ebbgate_bundle_lanes_ended_total{reason=%q}", reason)); lost > 0 {
					t.Errorf("%v lanes ended as %s", lost, reason)
				}
			}
		})
	}
}

// count reads a metric; what there is none of is 0.
func count(t *testing.T, addr, name string) float64 {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	return 0
}
