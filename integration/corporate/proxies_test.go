//go:build linux

package corporate

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/lab"
	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestProxies goes through each proxy with each way to write the account.
func TestProxies(t *testing.T) {
	for name, proxy := range map[string]rig.Proxy{
		"open":              through(lab.Open, "", ""),
		"basic":             through(lab.Basic, lab.BasicUser, lab.BasicPassword),
		"ntlm domain":       domain(lab.NTLM),
		"ntlm realm":        through(lab.NTLM, `corp.test\`+lab.User, lab.Password),
		"ntlm principal":    through(lab.NTLM, lab.User+"@corp.test", lab.Password),
		"ntlm bare":         through(lab.NTLM, lab.User, lab.Password),
		"ntlm umlaut":       through(lab.NTLM, `CORP\`+lab.UmlautUser, lab.UmlautPassword),
		"ntlm close":        domain(lab.NTLMClose),
		"ntlm close umlaut": through(lab.NTLMClose, lab.UmlautUser+"@corp.test", lab.UmlautPassword),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := need(t, 2*time.Minute)
			t.Parallel()
			c := configure(ctx, t, proxy) // carrier auto: quic cannot work
			if n := c.start(ctx, t); n.Carrier != "tls" || "http://"+c.connector.ProxyUse != proxy.URL {
				t.Errorf("online by carrier %q and proxy %q", n.Carrier, c.connector.ProxyUse)
			}
			c.askWeb(ctx, t)
		})
	}
}

// askWeb reads a small file of the web server through the CONNECT ingress.
func (c *company) askWeb(ctx context.Context, t *testing.T) {
	t.Helper()
	got := run1(ctx, t, network.Cloud, nil, "", "curl", "-sSf", "--proxytunnel", "-x", "http://"+c.ingress.Addr,
		"-U", c.ingress.Job+":"+c.ingress.Token, "http://files."+c.name+":8080/hello")
	if got != "hello" {
		t.Errorf("read %q", got)
	}
}

// TestWrongPassword counts at the domain controller what a wrong password costs: one attempt, across restarts.
func TestWrongPassword(t *testing.T) {
	ctx := need(t, 2*time.Minute)
	c := configure(ctx, t, through(lab.Open, "", ""))
	c.start(ctx, t) // registered while it still had a way out
	c.connector.Kill()
	c.connector.Options.Proxy = through(lab.NTLM, `CORP\`+lab.WrongUser, "not the password")
	if err := c.connector.Configure(); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		t.Helper()
		seen, err := network.Authentications(lab.WrongUser)
		if err != nil {
			t.Fatal(err)
		}
		return len(seen)
	}
	for start := range 3 {
		if err := c.connector.Launch(); err != nil {
			t.Fatal(err)
		}
		if err := c.connector.AwaitRefused(ctx); err != nil {
			t.Errorf("start %d: %v", start, err)
		}
		c.connector.Kill()
		if n := count(); n != 1 {
			t.Fatalf("start %d: the DC has seen %d attempts, want 1", start, n)
		}
	}
	// The right password is tried as soon as it is there.
	c.connector.Options.Proxy.Password = lab.Password
	if err := c.connector.Configure(); err != nil {
		t.Fatal(err)
	}
	c.run(ctx, t)
	c.askWeb(ctx, t)
	seen, err := network.Authentications(lab.WrongUser)
	if err != nil {
		t.Fatal(err)
	}
	wrong := slices.DeleteFunc(slices.Clone(seen), func(a lab.Authentication) bool { return a.Status == "NT_STATUS_OK" })
	if len(wrong) != 1 {
		t.Errorf("the DC saw %+v", seen)
	}
}

// TestProxyRestart restarts the proxy under a download: the download goes on where it was, over the next connection
// through the proxy, and every byte arrives.
func TestProxyRestart(t *testing.T) {
	ctx := need(t, 3*time.Minute)
	c := configure(ctx, t, domain(lab.NTLMClose))
	store, err := oracle.StartStore(ctx, network.Corp, network.Corp.Addr()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Kill()
	c.connector.Options.Stores = append(slices.Clone(stores), rig.Store{Name: "objects", Address: store.Addr()})
	if err := c.connector.Configure(); err != nil {
		t.Fatal(err)
	}
	c.start(ctx, t)
	conn, err := c.ingress.Dial(ctx, "objects."+c.name+":0")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	var restart errgroup.Group
	under := make(chan struct{})
	restart.Go(func() error {
		<-under
		return network.Squid(lab.NTLMClose).Restart(ctx)
	})
	begun := false
	script := oracle.Script{Seed: 1, Send: 40 << 20, Chunk: 64 << 10, Pause: 5 * time.Millisecond, End: oracle.EndFIN}
	outcome, _ := oracle.Job{
		Script: script,
		Observe: func(n int64) {
			if n > 8<<20 && !begun {
				begun = true
				close(under)
			}
		},
	}.Run(conn)
	if !begun {
		close(under)
	}
	if err := restart.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := outcome.Honest(script.Seed, script.Send); err != nil || !outcome.Complete() {
		t.Errorf("the job saw: %v, %v", outcome, err)
	}
	if _, err := relay.Await(ctx, c.name, node, rig.Online); err != nil {
		t.Fatal(err)
	}
	for { // what the relay believes may lag behind
		conn, err := c.ingress.Dial(ctx, "files."+c.name+":0")
		if err == nil {
			_ = conn.Close()
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestDirectIsBlocked shows that nothing works here without a proxy, and that the connector says which hop it is.
func TestDirectIsBlocked(t *testing.T) {
	ctx := need(t, 2*time.Minute)
	c := configure(ctx, t, rig.Proxy{}, "tls")
	err := c.connector.Register(ctx)
	var failed *rig.CommandError
	if !errors.As(err, &failed) || failed.Code != "name-unresolved" || failed.Hop != "dns" {
		t.Errorf("with a name that corp does not know: %v", err)
	}
	c.connector.Options.Relay = network.Cloud.Addr() + ":443"
	err = c.connector.Register(ctx)
	if !errors.As(err, &failed) || failed.Code != "connection-refused" || failed.Hop != "tcp" {
		t.Errorf("with an address that the firewall refuses: %v", err)
	}
}
