//go:build linux

package corporate

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"sync"
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

// frozenFor is longer than lanes live without an answer; with EBBGATE_FAULTS=full, as long as it is promised.
func frozenFor() time.Duration {
	if os.Getenv("EBBGATE_FAULTS") == "full" {
		return 20 * time.Second
	}
	return 12 * time.Second
}

// TestProxyDisturbed restarts the proxy under a copy, or has it stand still: the copy goes on where it was, in both
// directions, and every byte arrives.
func TestProxyDisturbed(t *testing.T) {
	for name, what := range map[string]struct {
		kind  lab.Kind
		fault func(ctx context.Context, s *lab.Squid) error
	}{
		"restarted": {lab.NTLMClose, func(ctx context.Context, s *lab.Squid) error { return s.Restart(ctx) }},
		"frozen":    {lab.NTLM, func(ctx context.Context, s *lab.Squid) error { return s.Freeze(ctx, frozenFor()) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := need(t, 4*time.Minute)
			c := configure(ctx, t, domain(what.kind))
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
			c.disturbed(ctx, t, store, func() error { return what.fault(ctx, network.Squid(what.kind)) })
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
		})
	}
}

// disturbed copies both ways, has the fault in the middle and wants every byte at both ends.
func (c *company) disturbed(ctx context.Context, t *testing.T, store *oracle.StoreProcess, fault func() error) {
	t.Helper()
	conn, err := c.ingress.Dial(ctx, "objects."+c.name+":0")
	if err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var faults errgroup.Group
	under := make(chan struct{})
	faults.Go(func() error {
		<-under
		return fault()
	})
	begun := sync.OnceFunc(func() { close(under) })
	const upload = 20 << 20
	script := oracle.Script{
		ID: rand.Text(), Seed: 1, Send: 40 << 20, Chunk: 64 << 10, Pause: 5 * time.Millisecond, End: oracle.EndFIN, UploadSeed: 2,
	}
	outcome, _ := oracle.Job{
		Script: script, Upload: upload, End: oracle.EndFIN,
		Observe: func(n int64) {
			if n > 8<<20 {
				begun()
			}
		},
	}.Run(conn)
	begun() // the fault may come too late, but it comes
	if err := faults.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := outcome.Honest(script.Seed, script.Send); err != nil || !outcome.Complete() {
		t.Errorf("the job saw: %v, %v", outcome, err)
	}
	report, err := store.Report(ctx, script.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Upload.Honest(script.UploadSeed, upload); err != nil || !report.Upload.Complete() {
		t.Errorf("the store saw: %v, %v", report.Upload, err)
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
