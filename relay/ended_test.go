package relay

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// TestEnded: who may report what. Identity comes from the certificate; what a
// report says of others is refused by name where it cannot be so.
func TestEnded(t *testing.T) {
	r := startRelay(t, 0)
	n := r.withNode(tunnel.QUIC)
	for _, job := range []string{"nightly", "other"} {
		if _, err := r.api.CreateJob(t.Context(), "default", job, []string{"corp/echo"}); err != nil {
			t.Fatal(err)
		}
	}
	domain := n.id.TrustDomain
	client := certs.Identity{TrustDomain: domain, Role: certs.RoleJob, Tenant: "default", Name: "nightly"}
	good := tunnel.Ended{
		Names: tunnel.Names{Ingress: client.String(), Node: n.id.String(), Store: "echo", Job: "nightly", Run: "r"},
		End: tunnel.End{
			UUID: [16]byte{15: 1}, Lasted: 2 * time.Second, Age: time.Second, BytesRead: 10, BytesWritten: 5, ReadCRC32C: 1, WrittenCRC32C: 2,
			Resumes: 1, Lanes: 2,
		},
	}
	byRelay := good
	byRelay.Ingress = r.relay.name.String()
	node := func(tenant, gateway, name string) string {
		return certs.Identity{TrustDomain: domain, Role: certs.RoleNode, Tenant: tenant, Gateway: gateway, Name: name}.String()
	}
	job := func(domain, tenant, name string) string {
		return certs.Identity{TrustDomain: domain, Role: certs.RoleJob, Tenant: tenant, Name: name}.String()
	}
	change := func(e tunnel.Ended, f func(*tunnel.Ended)) tunnel.Ended { f(&e); return e }
	live := r.relay.registry.node(keyOf(n.id))
	asNode := &visit{r: r.relay, identity: n.id, role: tunnel.RoleControl, node: live}
	asClient := &visit{r: r.relay, identity: client, role: tunnel.RoleClient}
	for _, tt := range []struct {
		as   *visit
		e    tunnel.Ended
		code string
	}{
		{asNode, good, endTaken},
		{asNode, byRelay, endTaken},
		{asClient, good, endTaken},
		{asNode, change(good, func(e *tunnel.Ended) { e.Node = node("default", "corp", "n2") }), "node-foreign"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Node = node("default", "lab", "n1") }), "node-foreign"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Node = node("rival", "corp", "n1") }), "node-foreign"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Ingress = job(domain, "rival", "nightly") }), "tenant-foreign"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Ingress = job("elsewhere", "default", "nightly") }), "tenant-foreign"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Job = "other" }), "job-foreign"},
		{asNode, change(byRelay, func(e *tunnel.Ended) { e.Job = "nobody" }), "job-unknown"},
		{asNode, change(byRelay, func(e *tunnel.Ended) { e.Ingress = n.id.String() }), "ingress-malformed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Ingress = "nightly" }), "ingress-malformed"},
		{asClient, change(good, func(e *tunnel.Ended) { e.Ingress = job(domain, "default", "other"); e.Job = "other" }), "job-foreign"},
		{asClient, change(good, func(e *tunnel.Ended) { e.Job = "other" }), "job-foreign"},
		{asClient, byRelay, "job-foreign"},
		{asClient, change(good, func(e *tunnel.Ended) { e.Node = node("rival", "corp", "n1") }), "tenant-foreign"},
		{asClient, change(good, func(e *tunnel.Ended) { e.Node = client.String() }), "node-malformed"},
		{asClient, change(good, func(e *tunnel.Ended) { e.Store = "files" }), "job-not-allowed"},
		{asClient, change(good, func(e *tunnel.Ended) { e.Node = node("default", "lab", "n1") }), "job-not-allowed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Store = "../x" }), "store-malformed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Age = math.MaxInt64 }), "time-malformed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Lasted = math.MaxInt64 }), "time-malformed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.BytesRead = -1 }), "count-malformed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.BytesWritten = math.MaxInt64 }), "count-malformed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Resumes = math.MaxUint32 }), "count-malformed"},
		{asNode, change(good, func(e *tunnel.Ended) { e.Lanes = math.MaxUint16 }), "count-malformed"},
	} {
		refused := make(map[string]int)
		taken := tt.as.halves(nil, group(tt.e), time.Now(), refused)
		if want := tt.code != endTaken; want != (len(taken) == 0) || want != (refused[tt.code] == 1) {
			t.Errorf("from %s: %d taken, refused %v, want %s: %+v", tt.as.identity, len(taken), refused, tt.code, tt.e)
		}
	}

	// a good one and a bad one, by the node's session; then the client's half
	var taken tunnel.EndsTaken
	bad := change(good, func(e *tunnel.Ended) { e.Job = "other" })
	cut := group(good)
	cut.Ends = cut.Ends[1:]
	control := n.sessions[tunnel.RoleControl]
	if err := control.Call(t.Context(), tunnel.TypeEnded, tunnel.Ends{Groups: []tunnel.EndsOf{group(bad, bad), group(good), cut}}, &taken); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(tunnel.EndsTaken{Refused: []tunnel.EndRefused{{Group: 0, Ends: 2, Code: "job-foreign"}, {Group: 2, Ends: 1, Code: "ends-malformed"}}}, taken); d != "" {
		t.Error(d)
	}
	if _, err := asClient.ended(t.Context(), tunnel.Ends{Groups: []tunnel.EndsOf{group(good, good)}}); err != nil {
		t.Error(err)
	}
	page, err := r.api.Activity(t.Context(), "default", admin.ActivityQuery{Node: "n1", Since: time.Now().Add(-time.Hour)})
	if err != nil || len(page.Runs) != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	u := page.Runs[0]
	if u.Streams != 1 || u.OneSided != 0 || u.BytesRead != 10 || u.Result != "complete" || u.Run != "r" || time.Since(u.End) > time.Minute || u.End.Sub(u.Start) < 2*time.Second {
		t.Errorf("%+v", u)
	}
	other, err := r.api.Activity(t.Context(), "rival", admin.ActivityQuery{})
	if err != nil || len(other.Runs) != 0 {
		t.Errorf("another tenant sees %+v, %v", other, err)
	}
	if _, err := asNode.ended(t.Context(), tunnel.Ends{Groups: make([]tunnel.EndsOf, endsBurst+1)}); codeOf(err) != "reports-too-many" {
		t.Errorf("groups without ends are free: %v", err)
	}
	for range endsBurst {
		if !r.relay.reporting.allow(client, 1, time.Unix(0, 0)) {
			break
		}
	}
	if r.relay.reporting.allow(client, 500, time.Unix(0, 0)) {
		t.Error("nobody bounds what a client reports")
	}
	if !r.relay.reporting.allow(n.id, 500, time.Unix(0, 0)) {
		t.Error("one identity's reports bound another's")
	}
}

// TestRefusedDialsAreRecorded: at the relay's own ingress, a client's question for a
// grant, and what a node refused a client; in a run of their own, with the reason.
func TestRefusedDialsAreRecorded(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.QUIC)
	node := r.relay.registry.gateway("default", "corp")[0]
	for _, target := range []string{"files.corp:0", "files.corp:0", "www.example.com:443"} { // that the job may not dial
		if _, _, answer := r.connect(target, "nightly/night", token); answer.StatusCode != 403 {
			t.Fatal(answer.Status)
		}
	}
	client := certs.Identity{TrustDomain: node.identity.TrustDomain, Role: certs.RoleJob, Tenant: "default", Name: "nightly"}
	for range 3 {
		_, err := r.relay.dials.forClient(client, tunnel.GrantRequest{Gateway: "corp", Store: "echo", Port: 9, Run: "asked"})
		wantCode(t, err, "port-mismatch")
	}
	asNode := &visit{r: r.relay, identity: node.identity, role: tunnel.RoleControl, node: node}
	refused := tunnel.Ended{
		Names: tunnel.Names{Ingress: client.String(), Node: node.identity.String(), Store: "echo", Job: "nightly", Run: "told"},
		End:   tunnel.RefusedAtNode([16]byte{1}, bundle.CodeStoreRefused),
	}
	for range 2 { // the same one
		if _, err := asNode.ended(t.Context(), tunnel.Ends{Groups: []tunnel.EndsOf{group(refused)}}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"asked corp/ echo: 3 port-mismatch store", "night / : 1 job-not-allowed relay",
		"night corp/ files: 2 job-not-allowed relay", "told corp/n1 echo: 1 store-refused store",
	}
	until(t, "they are listed", func() bool {
		page, err := r.api.Activity(t.Context(), "default", admin.ActivityQuery{Job: "nightly"})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, u := range page.Runs {
			if u.Result != "failed" || u.Streams != 0 {
				t.Errorf("%+v", u)
			}
			got = append(got, fmt.Sprintf("%s %s/%s %s: %d %s %s", u.Run, u.Gateway, u.Node, u.Store, u.Refused, u.Reason, u.Hop))
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// group is ends of streams with the names of the first.
func group(ends ...tunnel.Ended) tunnel.EndsOf {
	g := tunnel.EndsOf{Names: ends[0].Names}
	for _, e := range ends {
		g.Ends = tunnel.AppendEnd(g.Ends, e.End)
	}
	return g
}

// TestOwnStreamsAreRecorded: what goes through the relay's own ingress is, without
// a word of the node.
func TestOwnStreamsAreRecorded(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.QUIC)
	conn, _, answer := r.connect("echo.corp:0", "nightly/first run", token)
	if answer.StatusCode != 200 {
		t.Fatal(answer.Status)
	}
	_ = conn.Close() // with what it has not read: nothing
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	until(t, "the run is listed", func() bool {
		page, err := r.api.Activity(ctx, "default", admin.ActivityQuery{Job: "nightly"})
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Runs) == 1 && page.Runs[0].Run == "first run" && page.Runs[0].Streams == 1 && page.Runs[0].OneSided == 1
	})
}
