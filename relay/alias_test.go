package relay

import (
	"strconv"
	"testing"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/ingress"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// Aliases of nodes that are offline are known, too: so the answer does not
// depend on who is here.
func TestAliases(t *testing.T) {
	r := startRelay(t, 0)
	announce := map[string][]state.StoreRow{
		"corp": {
			{Name: "sql", Port: 1433, Aliases: []string{"sql01.corp.local:1433", "10.0.0.5:1433", "[fd00::5]:1433", "shared.local:1", "two.corp:7"}},
			{Name: "ro", Port: 1434, Aliases: []string{"shared.local:1", "replica.local:1434"}},
			{Name: "odd", Port: 1, Aliases: []string{"noport", "::"}},
		},
		"lab": {{Name: "sql", Port: 5432, Aliases: []string{"sql01.corp.local:5432", "shared.local:2", "secret.lab.local:5432"}}},
	}
	for gateway, stores := range announce {
		if _, err := r.api.CreateGateway(t.Context(), "default", gateway); err != nil {
			t.Fatal(err)
		}
		if _, err := r.register(tunnel.TLS, gateway, "n1"); err != nil {
			t.Fatal(err)
		}
		if err := r.relay.state.AnnounceStores(t.Context(), "default", gateway, "n1", stores); err != nil {
			t.Fatal(err)
		}
	}
	for job, allow := range map[string][]string{"all": {"corp/sql", "corp/ro", "lab/sql", "two/x"}, "one": {"corp/sql"}, "wild": {"lab/*"}} {
		if _, err := r.api.CreateJob(t.Context(), "default", job, allow); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ job, target, want string }{
		{"all", "sql.corp:1", "corp/sql 1"}, // the port is looked at later
		{"all", "sql01.corp.local:1433", "corp/sql 0"},
		{"all", "SQL01.Corp.Local.:1433", "corp/sql 0"},
		{"all", "sql01.corp.local:5432", "lab/sql 0"},
		{"all", "sql01.corp.local:0", "alias-ambiguous"},
		{"all", "sql01.corp.local:1", "port-mismatch"},
		{"one", "sql01.corp.local:0", "corp/sql 0"},
		{"one", "sql01.corp.local:5432", "port-mismatch"},
		{"wild", "sql01.corp.local:0", "lab/sql 0"},
		{"one", "10.0.0.5:1433", "corp/sql 0"},
		{"one", "[::ffff:10.0.0.5]:1433", "corp/sql 0"},
		{"one", "[FD00:0::5]:0", "corp/sql 0"},
		{"all", "shared.local:1", "alias-ambiguous"},
		{"all", "shared.local:2", "lab/sql 0"},
		{"one", "shared.local:1", "corp/sql 0"},
		{"one", "secret.lab.local:5432", "job-not-allowed"},
		{"one", "nowhere.lab.local:5432", "job-not-allowed"},
		{"all", "x.two:7", "two/x 7"},       // a name that it may dial is that store
		{"one", "two.corp:7", "corp/sql 0"}, // one that it may not is free to be an alias
		{"one", "sql.lab:5432", "lab/sql 5432"},
	} {
		target, err := ingress.ParseTarget(test.target)
		if err != nil {
			t.Fatal(err)
		}
		at, err := r.relay.dials.resolve(jobKey{"default", test.job}, target)
		got := codeOf(err)
		if err == nil {
			got = at.String() + " " + strconv.Itoa(at.port)
		}
		if got != test.want {
			t.Errorf("%s by %s: %s, want %s (%v)", test.target, test.job, got, test.want, err)
		}
	}
}

func TestDialByAlias(t *testing.T) {
	r := startRelay(t, 0)
	token := r.serve(tunnel.TLS)
	_, _, answer := r.connect("[2001:db8::7]:7777", "nightly", token)
	if answer.StatusCode != 200 {
		t.Errorf("%s %s", answer.Status, answer.Header.Get("Ebbgate-Error"))
	}
	_, _, answer = r.connect("echo.example:1", "nightly", token)
	if code := answer.Header.Get("Ebbgate-Error"); answer.StatusCode != 404 || code != "port-mismatch" {
		t.Errorf("%s %s", answer.Status, code)
	}
}

// A client names stores as jobs at the relay's own ingresses do, and is told
// which one it was.
func TestGrantByName(t *testing.T) {
	r := startRelay(t, 0)
	r.serve(tunnel.TLS)
	job := certs.Identity{TrustDomain: r.relay.name.TrustDomain, Role: certs.RoleJob, Tenant: "default", Name: "nightly"}
	for _, test := range []struct {
		host string
		port int
		want string // the store, or the code of the refusal
	}{
		{"echo.corp", 0, "echo"},
		{"ECHO.corp.", 0, "echo"},
		{"echo.corp", 1, "port-mismatch"},
		{"2001:db8::7", 7777, "echo"},
		{"echo.example", 1, "port-mismatch"},
		{"nowhere.example", 0, "job-not-allowed"},
		{"echo.corp", 70000, "target-malformed"},
		{"a b", 0, "target-malformed"},
		{"", 0, "job-not-allowed"},
	} {
		granted, err := r.relay.dials.forClient(job, tunnel.GrantRequest{Host: test.host, Port: test.port, Run: "r"})
		got := codeOf(err)
		if err == nil {
			got = granted.Store
		}
		if got != test.want {
			t.Errorf("%s:%d: %q (%v), want %q", test.host, test.port, got, err, test.want)
		}
	}
	granted, err := r.relay.dials.forClient(job, tunnel.GrantRequest{Gateway: "corp", Store: "echo", Run: "r"})
	if err != nil || granted.Store != "echo" {
		t.Errorf("%+v, %v", granted, err)
	}
}
