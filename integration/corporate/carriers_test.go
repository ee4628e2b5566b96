//go:build linux

package corporate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/lab"
	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// passage is a carrier through a proxy, and how it ends: the carrier that is used, or the code of the failure.
type passage struct {
	proxy   string
	carrier string
	used    string
	code    string
	hop     string
}

// passages are what real proxies do to each carrier.
var passages = []passage{
	{"open", "tls", "tls", "", ""},
	{"open", "wss", "wss", "", ""},
	{"open", "ws", "", "upgrade-refused", "proxy"}, // no CONNECT to 80, and it takes the Upgrade away
	{"open", "quic", "", "no-carrier", "relay"},
	{"open", "auto", "tls", "", ""},
	{"basic", "tls", "tls", "", ""},
	{"basic", "wss", "wss", "", ""},
	{"basic", "ws", "ws", "", ""},
	{"basic", "auto", "tls", "", ""},
	{"ntlm", "tls", "tls", "", ""},
	{"ntlm", "wss", "wss", "", ""},
	{"ntlm", "ws", "ws", "", ""},
	{"ntlm", "auto", "tls", "", ""},
	{"ntlm-close", "wss", "wss", "", ""},
	{"ntlm-close", "ws", "ws", "", ""},
	{"inspect", "tls", "", "tls-intercepted", "tls-interception"},
	{"inspect", "wss", "wss", "", ""},
	{"inspect", "ws", "ws", "", ""},
	{"inspect", "auto", "wss", "", ""},
}

func proxyOf(kind string) rig.Proxy {
	switch k := lab.Kind(kind); k {
	case lab.Basic:
		return through(k, lab.BasicUser, lab.BasicPassword)
	case lab.NTLM, lab.NTLMClose:
		return domain(k)
	default:
		return through(k, "", "")
	}
}

// TestCarriersThroughProxies plays every shape of a connection over each carrier through each proxy that lets it
// through, and sees the others named.
func TestCarriersThroughProxies(t *testing.T) {
	ctx := need(t, 4*time.Minute)
	store, err := oracle.StartStore(ctx, network.Corp, network.Corp.Addr()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Kill()
	var mu sync.Mutex
	cells := make(map[[2]string]string)
	t.Run("all", func(t *testing.T) {
		for _, p := range passages {
			t.Run(p.proxy+"/"+p.carrier, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				ends := p.pass(ctx, t, store)
				cell := p.code
				if p.code == "" {
					cell = fmt.Sprintf("%s, %d of %d ends", p.used, ends, len(oracle.Scenarios(0)))
				}
				if t.Failed() {
					cell = "FAILED"
				}
				mu.Lock()
				defer mu.Unlock()
				cells[[2]string{p.proxy, p.carrier}] = fmt.Sprintf("%s, %.1f s", cell, time.Since(began).Seconds())
			})
		}
	})
	var b strings.Builder
	columns := []string{"quic", "tls", "wss", "ws", "auto"}
	fmt.Fprintf(&b, "\n%-12s", "proxy")
	for _, c := range columns {
		fmt.Fprintf(&b, "%-28s", c)
	}
	for _, kind := range []string{"open", "basic", "ntlm", "ntlm-close", "inspect"} {
		fmt.Fprintf(&b, "\n%-12s", kind)
		for _, c := range columns {
			fmt.Fprintf(&b, "%-28s", cmp.Or(cells[[2]string{kind, c}], "-"))
		}
	}
	t.Log(b.String())
}

// pass goes through once, and returns how many scenarios ended as they must.
func (p passage) pass(ctx context.Context, t *testing.T, store *oracle.StoreProcess) (ends int) {
	c := configure(ctx, t, proxyOf(p.proxy), p.carrier)
	c.connector.Options.Stores = append(slices.Clone(stores), rig.Store{Name: "objects", Address: store.Addr()})
	if err := c.connector.Configure(); err != nil {
		t.Fatal(err)
	}
	if p.code != "" {
		err := c.connector.Register(ctx)
		var failed *rig.CommandError
		if !errors.As(err, &failed) || failed.Code != p.code || failed.Hop != p.hop || failed.Advice == "" {
			t.Errorf("registered with %v, want %s at hop %s", err, p.code, p.hop)
		}
		return 0
	}
	n := c.start(ctx, t)
	if c.connector.Enrolled != p.used || n.Carrier != p.used {
		t.Errorf("registered over %q, online over %q, want %s", c.connector.Enrolled, n.Carrier, p.used)
	}
	var group errgroup.Group
	group.SetLimit(4)
	var mu sync.Mutex
	for _, s := range oracle.Scenarios(0) {
		group.Go(func() error {
			conn, err := c.ingress.Dial(ctx, "objects."+c.name+":0")
			if err == nil {
				err = s.Run(ctx, conn, store)
			}
			if err != nil {
				t.Errorf("%s: %v", s.Name, err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			ends++
			return nil
		})
	}
	_ = group.Wait()
	return ends
}
