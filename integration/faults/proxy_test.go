//go:build unix

package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/elazarl/goproxy"

	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// proxyEnv tells a process of the test binary to be an HTTP proxy that listens there.
const proxyEnv = "EBBGATE_FAULTS_PROXY"

// proxyMain is the process.
func proxyMain() {
	addr := os.Getenv(proxyEnv)
	if addr == "" {
		return
	}
	l, err := net.Listen("tcp", addr)
	if err == nil {
		fmt.Println(`ready {}`)
		err = (&http.Server{Handler: goproxy.NewProxyHttpServer(), ReadHeaderTimeout: time.Minute}).Serve(l)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// corporate is a proxy that is a process of its own and can come back at its address.
type corporate struct {
	*proc.Process
	addr string
}

func startProxy(ctx context.Context, t *testing.T) *corporate {
	t.Helper()
	c := &corporate{addr: rig.FreePort(t)}
	if err := c.start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, "proxy", c.Kill, c.Tail) })
	return c
}

func (c *corporate) start(ctx context.Context) (err error) {
	if c.Process, err = proc.Start(proc.Spec{Name: "proxy", Path: os.Args[0], Env: []string{proxyEnv + "=" + c.addr}}); err != nil {
		return err
	}
	return c.Ready(ctx, &struct{}{})
}

// TestProxy: the connector's proxy is killed and comes back, is away for a while, or stands still.
func TestProxy(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(ctx context.Context, c *corporate) error{
		"killed": func(ctx context.Context, c *corporate) error {
			c.Kill()
			return c.start(ctx)
		},
		"away": func(ctx context.Context, c *corporate) error {
			_ = c.Signal(syscall.SIGTERM)
			<-c.Done()
			wait(ctx, long(3*time.Second, 30*time.Second))
			return c.start(ctx)
		},
		"frozen": func(ctx context.Context, c *corporate) error {
			return frozen(ctx, c.Signal, long(5*time.Second, 20*time.Second))
		},
	} {
		for _, carrier := range []string{"tls", "wss", "ws"} {
			t.Run(name+"/"+carrier, func(t *testing.T) {
				t.Parallel()
				ctx := deadline(t)
				c := startProxy(ctx, t)
				p := newPath(ctx, t, options{carrier: carrier, proxy: "http://" + c.addr})
				disturbed(ctx, t, p, both, 1, func() error { return fault(ctx, c) })
			})
		}
	}
}
