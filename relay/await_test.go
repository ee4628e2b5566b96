package relay

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// TestAwaitNode: who wants lanes to a node that is on its way waits for its control session, and no longer than it says.
func TestAwaitNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry()
		id := certs.Identity{Role: certs.RoleNode, Tenant: "default", Gateway: "corp", Name: "n1"}
		if n := r.await(t.Context(), keyOf(id), 0); n != nil {
			t.Errorf("%v is here", n.key)
		}
		found := make(chan *node, 2)
		for _, wait := range []time.Duration{time.Second, 3 * time.Second} {
			go func() { found <- r.await(context.Background(), keyOf(id), wait) }()
		}
		start := time.Now()
		if n := <-found; n != nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", n, time.Since(start))
		}
		for _, role := range []string{tunnel.RoleBulk, tunnel.RoleControl} {
			time.Sleep(time.Second / 2)
			synctest.Wait()
			if len(found) > 0 {
				t.Error("found before its control session came")
			}
			if _, err := r.join(t.Context(), new(tunnel.Session), id, tunnel.Hello{Role: role}); err != nil {
				t.Fatal(err)
			}
		}
		if n := <-found; n == nil || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", n, time.Since(start))
		}
		if n := r.await(t.Context(), keyOf(id), 0); n == nil {
			t.Error("it is here")
		}
		if len(r.waiting) != 0 {
			t.Errorf("%d are still waited for", len(r.waiting))
		}
	})
}
