package main

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/relay/admin"
)

// registrar is a relay as far as administrators see it.
type registrar struct {
	tenant string
	asked  admin.ActivityQuery // last
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (r *registrar) CreateGateway(_ context.Context, tenant, name string) (admin.Gateway, error) {
	r.tenant = tenant
	if name == "taken" {
		return admin.Gateway{}, &admin.Error{ErrCode: "gateway-exists", ErrHop: "gateway", Message: "there is a gateway taken", Advise: "choose another name"}
	}
	return admin.Gateway{Name: name, ID: "g1", Created: at}, nil
}

func (r *registrar) Gateways(_ context.Context, tenant string) ([]admin.Gateway, error) {
	if tenant == "empty" {
		return nil, nil
	}
	return []admin.Gateway{{Name: "corp", ID: "g1", Created: at, Nodes: 2, Online: 1}}, nil
}

func (r *registrar) GatewayKeys(context.Context, string, string) (admin.Keys, error) {
	return admin.Keys{Key1: "ebbkey_one", Key2: "ebbkey_two"}, nil
}

func (r *registrar) RegenerateKey(context.Context, string, string, string) (admin.Keys, error) {
	return admin.Keys{Key2: "ebbkey_three"}, nil
}

func (r *registrar) Nodes(_ context.Context, tenant, _ string) ([]admin.Node, error) {
	if tenant == "empty" {
		return nil, nil
	}
	return []admin.Node{
		{
			Name: "n1", Gateway: "corp", Status: "Online", Since: at, Carrier: "tls", Proxy: "proxy.corp.example:8080",
			RTT: 12.34, Streams: 3, Stores: []string{"erp-sql", "files"},
		},
		{Name: "n2", Gateway: "corp", Status: "Offline", Reason: "never seen"},
	}, nil
}

func (r *registrar) CreateJob(_ context.Context, _, name string, _ []string) (admin.JobToken, error) {
	return admin.JobToken{Name: name, Token: "ebbjob_secret"}, nil
}

func (r *registrar) Jobs(_ context.Context, tenant string) ([]admin.Job, error) {
	if tenant == "empty" {
		return nil, nil
	}
	return []admin.Job{
		{Name: "nightly", Allow: []string{"corp/erp-sql", "corp/files"}, Created: at},
		{Name: "old", Allow: []string{"lab/*"}, Created: at, Revoked: true},
	}, nil
}

func (r *registrar) RevokeJob(context.Context, string, string) error { return nil }

func (r *registrar) TestStore(_ context.Context, _, gateway, store, node string) (admin.StoreTest, error) {
	hops := []admin.Hop{
		{Name: "relay", OK: true, Detail: "has a session with the node over quic"},
		{Name: "tcp", OK: true, Millis: 1.25, Detail: "10.0.0.5:1433 in 1.2 ms"},
	}
	t := admin.StoreTest{Gateway: gateway, Store: store, OK: true, Nodes: []admin.NodeTest{{Node: orFirst(node), OK: true, Hops: hops}}}
	if store == "shut" {
		t.OK, t.FirstFailure = false, "store"
		bad := &t.Nodes[0]
		bad.OK, bad.FirstFailure = false, "store"
		bad.Hops = append(bad.Hops, admin.Hop{Name: "store", Detail: "closes at once", Advice: "see its log"})
	}
	return t, nil
}

// Activity has a page with a good run and one with a difference, two to a page.
func (r *registrar) Authorities(context.Context) ([]admin.Authority, error) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []admin.Authority{{Generation: 1, From: at, Until: at, Certificate: "one\n"}, {Generation: 2, Signs: true, From: at, Until: at, Certificate: "two\n"}}, nil
}

func (r *registrar) Activity(_ context.Context, tenant string, q admin.ActivityQuery) (admin.Activity, error) {
	r.asked = q
	good := admin.Run{
		Job: "nightly", Run: "r1", Gateway: "corp", Node: "n1", Store: "files", Start: at.Add(-time.Minute), End: at, Streams: 2,
		BytesRead: 1_500_000, BytesWritten: 12, Resumes: 3, Result: "complete", Reason: "ok",
	}
	bad := good
	bad.Run, bad.Result, bad.Reason, bad.Hop, bad.Differs = "r2", "differs", "ends-differ", "node", 1
	bad.Differences = []admin.Difference{{UUID: "u", Ingress: admin.Numbers{BytesRead: 1, ReadCRC32C: "0000000a"}, Node: admin.Numbers{BytesRead: 2, ReadCRC32C: "0000000b"}}}
	switch {
	case tenant == "empty":
		return admin.Activity{}, nil
	case q.Limit == 1:
		return admin.Activity{Runs: []admin.Run{good}, Next: "n"}, nil
	case q.After == "":
		return admin.Activity{Runs: []admin.Run{good}, Next: "more"}, nil
	}
	return admin.Activity{Runs: []admin.Run{bad}}, nil
}

func orFirst(node string) string {
	if node == "" {
		return "n1"
	}
	return node
}

// serve gives the API's address of a relay that knows a little.
func serve(t *testing.T) (api string, relay *registrar) {
	t.Helper()
	dir := t.TempDir()
	ln, err := admin.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	relay = &registrar{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- admin.NewServer(relay, nil).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "unix://" + filepath.ToSlash(filepath.Join(dir, admin.SocketName)), relay
}

// goodRun is a run as programs read it.
const goodRun = `{"job":"nightly","run":"r1","gateway":"corp","node":"n1","store":"files","start":"2026-01-02T03:03:05Z","end":"2026-01-02T03:04:05Z",` +
	`"streams":2,"bytes_read":1500000,"bytes_written":12,"resumes":3,"result":"complete","reason":"ok","hop":"","stalls":0,"failed":0,"lost":0,"differs":0,"refused":0,"one_sided":0}`

func TestAdministration(t *testing.T) {
	api, relay := serve(t)
	for _, tt := range []struct {
		args, text, json string
	}{
		{
			"gateway create corp --tenant acme",
			"made gateway corp; its keys: ebbgate gateway keys corp\n",
			`{"name":"corp","id":"g1","created":"2026-01-02T03:04:05Z","nodes":0,"online":0}`,
		},
		{
			"gateway list",
			"NAME  NODES  ONLINE  CREATED\ncorp  2      1       2026-01-02 03:04:05\n",
			`{"gateways":[{"name":"corp","id":"g1","created":"2026-01-02T03:04:05Z","nodes":2,"online":1}]}`,
		},
		{"gateway list --tenant empty", "NAME  NODES  ONLINE  CREATED\n", `{"gateways":[]}`},
		{"gateway keys corp", "key1  ebbkey_one\nkey2  ebbkey_two\n", `{"key1":"ebbkey_one","key2":"ebbkey_two"}`},
		{"gateway regenerate-key corp key2", "ebbkey_three\n", `{"key2":"ebbkey_three"}`},
		{
			"node list corp",
			`NAME  STATUS   CARRIER  PROXY                    RTT      STREAMS  STORES         SINCE                REASON
n1    Online   tls      proxy.corp.example:8080  12.3 ms  3        erp-sql,files  2026-01-02 03:04:05  -
n2    Offline  -        -                        -        0        -              -                    never seen
`,
			`{"nodes":[{"name":"n1","gateway":"corp","status":"Online","reason":"","since":"2026-01-02T03:04:05Z","version":"","carrier":"tls",` +
				`"proxy":"proxy.corp.example:8080","rtt_ms":12.34,"cpu_percent":0,"memory_available_bytes":0,"network_in_bytes_per_s":0,` +
				`"network_out_bytes_per_s":0,"runs":0,"concurrent_runs":0,"streams":3,"certificate_expires":"0001-01-01T00:00:00Z","stores":["erp-sql","files"]},` +
				`{"name":"n2","gateway":"corp","status":"Offline","reason":"never seen","since":"0001-01-01T00:00:00Z","version":"","carrier":"",` +
				`"proxy":"","rtt_ms":0,"cpu_percent":0,"memory_available_bytes":0,"network_in_bytes_per_s":0,` +
				`"network_out_bytes_per_s":0,"runs":0,"concurrent_runs":0,"streams":0,"certificate_expires":"0001-01-01T00:00:00Z","stores":null}]}`,
		},
		{"node list corp --tenant empty", "NAME  STATUS  CARRIER  PROXY  RTT  STREAMS  STORES  SINCE  REASON\n", `{"nodes":[]}`},
		{
			"store test corp/erp-sql --node n2",
			"node n2\n  relay  ok          has a session with the node over quic\n  tcp    ok  1.2 ms  10.0.0.5:1433 in 1.2 ms\n",
			`{"gateway":"corp","store":"erp-sql","ok":true,"first_failure":"","nodes":[{"node":"n2","ok":true,"first_failure":"","hops":[` +
				`{"name":"relay","ok":true,"ms":0,"detail":"has a session with the node over quic","advice":""},` +
				`{"name":"tcp","ok":true,"ms":1.25,"detail":"10.0.0.5:1433 in 1.2 ms","advice":""}]}]}`,
		},
		{"job create nightly --allow corp/erp-sql,lab/*", "ebbjob_secret\n", `{"name":"nightly","token":"ebbjob_secret"}`},
		{
			"job list",
			"NAME     ALLOW                    CREATED              STATE\nnightly  corp/erp-sql,corp/files  2026-01-02 03:04:05  valid\nold      lab/*                    2026-01-02 03:04:05  revoked\n",
			`{"jobs":[{"name":"nightly","allow":["corp/erp-sql","corp/files"],"created":"2026-01-02T03:04:05Z","revoked":false},` +
				`{"name":"old","allow":["lab/*"],"created":"2026-01-02T03:04:05Z","revoked":true}]}`,
		},
		{"job list --tenant empty", "NAME  ALLOW  CREATED  STATE\n", `{"jobs":[]}`},
		{
			"activity list --limit 1",
			`END                  JOB      RUN  STORE       NODE  STREAMS  REFUSED  READ    WRITTEN  RESUMES  RESULT    REASON
2026-01-02 03:04:05  nightly  r1   corp/files  n1    2        0        1.5 MB  12 B     3        complete  -

older runs are left out: see --since, --job, --node and --limit
`,
			`{"runs":[` + goodRun + `],"next":"n"}`,
		},
		{
			"activity list --node corp/n1",
			`END                  JOB      RUN  STORE       NODE  STREAMS  REFUSED  READ    WRITTEN  RESUMES  RESULT    REASON
2026-01-02 03:04:05  nightly  r1   corp/files  n1    2        0        1.5 MB  12 B     3        complete  -
2026-01-02 03:04:05  nightly  r2   corp/files  n1    2        0        1.5 MB  12 B     3        differs   ends-differ (node)

stream u of run r2: the ingress says 1 bytes read (0000000a) and 0 written (), the node 2 (0000000b) and 0 ()
`,
			`{"runs":[` + goodRun + `,{"job":"nightly","run":"r2","gateway":"corp","node":"n1","store":"files","start":"2026-01-02T03:03:05Z","end":"2026-01-02T03:04:05Z",` +
				`"streams":2,"bytes_read":1500000,"bytes_written":12,"resumes":3,"result":"differs","reason":"ends-differ","hop":"node","stalls":0,"failed":0,"lost":0,"differs":1,"refused":0,"one_sided":0,` +
				`"differences":[{"uuid":"u","ingress":{"bytes_read":1,"bytes_written":0,"read_crc32c":"0000000a","written_crc32c":""},` +
				`"node":{"bytes_read":2,"bytes_written":0,"read_crc32c":"0000000b","written_crc32c":""}}]}]}`,
		},
		{"activity list --tenant empty", "END  JOB  RUN  STORE  NODE  STREAMS  REFUSED  READ  WRITTEN  RESUMES  RESULT  REASON\n", `{"runs":[]}`},
		{
			"certs status",
			"GENERATION  SIGNS  FROM                 UNTIL\n1           -      2026-01-02 03:04:05  2026-01-02 03:04:05\n2           yes    2026-01-02 03:04:05  2026-01-02 03:04:05\n",
			`{"authorities":[{"generation":1,"signs":false,"from":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:05Z","certificate":"one\n"},` +
				`{"generation":2,"signs":true,"from":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:05Z","certificate":"two\n"}]}`,
		},
		{
			"certs status --pem", "one\ntwo\n",
			`{"authorities":[{"generation":1,"signs":false,"from":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:05Z","certificate":"one\n"},` +
				`{"generation":2,"signs":true,"from":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:05Z","certificate":"two\n"}]}`,
		},
		{"job revoke nightly", "revoked nightly\n", `{"revoked":"nightly"}`},
	} {
		args := append(strings.Fields(tt.args), "--api", api)
		code, stdout, stderr := execute(t, args...)
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit %d: %s", tt.args, code, stderr)
		}
		if d := cmp.Diff(tt.text, stdout); d != "" {
			t.Errorf("%s: %s", tt.args, d)
		}
		code, stdout, stderr = execute(t, append(args, "--json")...)
		if code != 0 || stderr != "" {
			t.Errorf("%s --json: exit %d: %s", tt.args, code, stderr)
		}
		if d := cmp.Diff(tt.json+"\n", stdout); d != "" {
			t.Errorf("%s --json: %s", tt.args, d)
		}
	}
	if relay.tenant != "acme" {
		t.Errorf("gateway create reached tenant %q", relay.tenant)
	}
}

// TestStoreTestFails: the report is on standard output, the failure on standard
// error, and the exit code is 1.
func TestStoreTestFails(t *testing.T) {
	api, _ := serve(t)
	code, stdout, stderr := execute(t, "store", "test", "corp/shut", "--api", api)
	wantOut := "node n1\n  relay  ok             has a session with the node over quic\n  tcp    ok     1.2 ms  10.0.0.5:1433 in 1.2 ms\n" +
		"  store  FAILS          closes at once\n                        see its log\n"
	wantErr := "ebbgate: store: corp/shut through node n1: store: closes at once [store-test-failed]\n  see its log\n"
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	if d := cmp.Diff(wantOut, stdout) + cmp.Diff(wantErr, stderr); d != "" {
		t.Error(d)
	}
	code, stdout, stderr = execute(t, "store", "test", "corp/shut", "--api", api, "--json")
	if code != 1 || !strings.HasPrefix(stdout, `{"gateway":"corp","store":"shut","ok":false,"first_failure":"store","nodes":[`) ||
		!strings.Contains(stderr, `"code":"store-test-failed","hop":"store"`) {
		t.Errorf("exit %d, %s, %s", code, stdout, stderr)
	}
}

func TestAdministrationFails(t *testing.T) {
	api, _ := serve(t)
	t.Setenv("EBBGATE_API", api)
	code, stdout, stderr := execute(t, "gateway", "create", "taken")
	want := "ebbgate: gateway: there is a gateway taken [gateway-exists]\n  choose another name\n"
	if code != 1 || stdout != "" || stderr != want {
		t.Errorf("exit %d, %q, %q, want 1, %q", code, stdout, stderr, want)
	}
	code, stdout, stderr = execute(t, "gateway", "create", "taken", "--json")
	want = `{"error":{"advice":"choose another name","code":"gateway-exists","hop":"gateway","message":"there is a gateway taken"}}` + "\n"
	if code != 1 || stdout != "" || stderr != want {
		t.Errorf("exit %d, %q, %q, want 1, %q", code, stdout, stderr, want)
	}
}

// TestActivityQuery: what the flags of activity list ask for.
func TestActivityQuery(t *testing.T) {
	api, relay := serve(t)
	since := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	for args, want := range map[string]admin.ActivityQuery{
		"--gateway corp --node n1 --job nightly --limit 1": {Gateway: "corp", Node: "n1", Job: "nightly", Limit: 1},
		"--node lab/n2 --limit 1":                          {Gateway: "lab", Node: "n2", Limit: 1},
		"--since 2026-01-31T01:00:00+01:00 --limit 1":      {Since: since, Limit: 1},
	} {
		if code, _, stderr := execute(t, append(strings.Fields("activity list "+args), "--api", api)...); code != 0 {
			t.Errorf("%s: exit %d: %s", args, code, stderr)
		}
		if d := cmp.Diff(want, relay.asked); d != "" {
			t.Errorf("%s: %s", args, d)
		}
	}
	for _, args := range []string{"--since soon", "--since -5m", "--since 1d2", "--since xd", "--limit 0", "--node a/n --gateway b"} {
		if code, _, _ := execute(t, append(strings.Fields("activity list "+args), "--api", api)...); code != 2 {
			t.Errorf("%s: exit %d, want 2", args, code)
		}
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "90m": now.Add(-90 * time.Minute), "7d": now.AddDate(0, 0, -7), "1d12h": now.AddDate(0, 0, -1).Add(-12 * time.Hour), "0s": now,
		"2026-01-31T00:00:00Z": time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}
