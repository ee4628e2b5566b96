package carriers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/elazarl/goproxy"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// inspector is a proxy that looks into TLS and knows HTTP, WebSockets included.
type inspector struct {
	url       string
	inspected atomic.Int64 // requests that it saw inside TLS
}

func startInspector(t *testing.T) *inspector {
	t.Helper()
	ca, err := certs.NewAuthority("corporate-inspection", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	public, err := ca.IssuePublic([]string{"127.0.0.1"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if public.Leaf == nil {
		if public.Leaf, err = x509.ParseCertificate(public.Certificate[0]); err != nil {
			t.Fatal(err)
		}
	}
	in := new(inspector)
	proxy := goproxy.NewProxyHttpServer()
	proxy.Logger = log.New(io.Discard, "", 0)
	proxy.Tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	proxy.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: func(string, *goproxy.ProxyCtx) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{*public}}, nil
		}}, host
	}))
	proxy.OnRequest().DoFunc(func(req *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		in.inspected.Add(1)
		return req, nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in.url = "http://" + l.Addr().String()
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	over := make(chan struct{})
	go func() { defer close(over); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-over })
	return in
}

// TestInspectedTLS goes through a proxy that shows a certificate of its own: tls
// cannot work there and says why, and auto goes on with wss.
func TestInspectedTLS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	relay := startRelay(ctx, t)
	in := startInspector(t)
	p := newPath(ctx, t, relay, "wss", "corp")

	var failed *rig.CommandError
	if err := p.register(ctx, t, rig.Proxy{URL: in.url}, "tls"); !errors.As(err, &failed) || failed.Code != "tls-intercepted" || failed.Hop != "tls-interception" {
		t.Errorf("over tls: %v", err)
	}
	if err := p.register(ctx, t, rig.Proxy{URL: in.url}, "auto"); err != nil {
		t.Fatal(err)
	}
	// It remembers what worked; without that it finds out again.
	if err := os.Remove(filepath.Join(p.connector.Options.Dir, "state", "carriers.json")); err != nil {
		t.Fatal(err)
	}
	if err := p.online(ctx, t); err != nil {
		t.Fatal(err)
	}
	if tail := p.connector.Tail(); !strings.Contains(tail, `"code":"tls-intercepted"`) {
		t.Errorf("the connector does not say that TLS is intercepted:\n%s", tail)
	}
	if in.inspected.Load() == 0 {
		t.Error("the proxy has looked into nothing")
	}
	for _, s := range oracle.Scenarios(0) {
		if err := p.play(ctx, "connect", s); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}
