package main

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/client"
	"github.com/ebbgate/ebbgate/tunnel"
)

// TestStoreEnvironment: a name stands for one store, or for none.
func TestStoreEnvironment(t *testing.T) {
	stores, err := parseStores([]string{"corp/erp-sql", "corp/pg=127.0.0.1:0", "lab/pg"})
	if err != nil {
		t.Fatal(err)
	}
	e := &execution{stores: stores}
	listeners, err := e.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var at []string
	for _, ln := range listeners {
		at = append(at, ln.Addr().String())
		ln.Close()
	}
	want := []string{
		"EBBGATE_STORE_ERP_SQL=" + at[0], "EBBGATE_STORE_CORP_ERP_SQL=" + at[0],
		"EBBGATE_STORE_CORP_PG=" + at[1], "EBBGATE_STORE_LAB_PG=" + at[2],
	}
	if d := cmp.Diff(want, storeEnvironment(stores, listeners)); d != "" {
		t.Error(d)
	}
}

// TestListenFails: one port that is taken closes all.
func TestListenFails(t *testing.T) {
	taken, err := client.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	stores, err := parseStores([]string{"corp/pg", "corp/erp-sql=" + taken.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&execution{stores: stores}).listen(t.Context()); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func testDoors(t *testing.T) *doors {
	t.Helper()
	d, err := newDoors(t.Context(), nil, client.NewTally("", nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

func TestProxyEnvironment(t *testing.T) {
	d := testDoors(t)
	vars := map[string]string{"NO_PROXY": "metadata.internal, LOCALHOST", "no_proxy": "metadata.internal"}
	env := d.environment(func(name string) string { return vars[name] }, []string{"s3.example.com"})
	got := make(map[string]string)
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		got[name] = value
	}
	web, socks := "http://exec:"+d.password+"@"+d.http.Addr().String(), "socks5h://exec:"+d.password+"@"+d.socks.Addr().String()
	around := "metadata.internal,LOCALHOST,s3.example.com,127.0.0.1,::1"
	want := map[string]string{
		"HTTPS_PROXY": web, "HTTP_PROXY": web, "ALL_PROXY": socks, "NO_PROXY": around,
		"https_proxy": web, "http_proxy": web, "all_proxy": socks, "no_proxy": around,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if u, err := url.Parse(web); err != nil || u.User.Username() != doorUser || len(d.password) < 20 {
		t.Errorf("%q: %v", web, err)
	}
	if other := testDoors(t); other.password == d.password {
		t.Error("two processes have one password")
	}
}

// TestDoorsAreLocked: who does not know the password gets in nowhere.
func TestDoorsAreLocked(t *testing.T) {
	d := testDoors(t)
	for _, tc := range []struct {
		name, password string
		want           bool
	}{
		{doorUser, d.password, true},
		{"", d.password, true}, // Bearer
		{doorUser, "", false},
		{doorUser, d.password[1:], false},
		{doorUser, strings.ToLower(d.password), false},
		{"other", d.password, false},
	} {
		if _, err := d.Authenticate(t.Context(), tc.name, tc.password, "127.0.0.1:1"); (err == nil) != tc.want {
			t.Errorf("%s with %d characters: %v", tc.name, len(tc.password), err)
		}
	}
	stop := while(t.Context(), func(ctx context.Context) { _ = d.connect.Serve(ctx, d.http) })
	defer stop()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: d.http.Addr().String()})}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("http://web.corp:80/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusProxyAuthRequired {
		t.Errorf("without a password: %s", response.Status)
	}
}

// TestExplained: who meant a host that is no store learns what to do.
func TestExplained(t *testing.T) {
	refused := tunnel.Errorf("job-not-allowed", "relay", "allow it", "no")
	e, ok := explained(refused).(*doorError)
	if !ok || e.Code() != "job-not-allowed" || !strings.HasPrefix(e.Advice(), "allow it\n") || !strings.Contains(e.Advice(), "--no-proxy") {
		t.Errorf("%#v", e)
	}
	other := tunnel.Errorf("no-node-online", "gateway", "", "none")
	if explained(other) != error(other) {
		t.Error("another refusal was changed")
	}
}

// TestStreamsText shows the streams by store, and counts what it does not show.
func TestStreamsText(t *testing.T) {
	s := client.Summary{Streams: 30, Failed: 3, BytesRead: 5, Seconds: 1.25, Stores: []client.StoreSummary{{Target: "corp/pg", Refused: 2}}}
	for _, target := range slices.Repeat([]string{"corp/pg", "corp/files"}, 15) {
		s.Last = append(s.Last, client.Report{Target: target, Reason: "ok", UUID: "u", ReadCRC32C: "0000000a", WriteCRC32C: "0000000b"})
	}
	lines := strings.Split(streamsText(s), "\n")
	if len(lines) != 23 || strings.Fields(lines[0])[0] != "store" || !strings.HasPrefix(lines[1], "corp/files ") || !strings.HasPrefix(lines[20], "corp/pg ") {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	if lines[21] != "10 streams that ended before are not shown" || lines[22] != "30 streams, 1 ended badly; 2 dials refused; 5 bytes read, 0 written; 1.2 s" {
		t.Errorf("%q", lines[21:])
	}
}
