package state

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ebbgate/ebbgate/certs"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		os.Exit(child(mode))
	}
	goleak.VerifyTestMain(m)
}

// coded is what people see of an error.
type coded interface {
	error
	Code() string
	Hop() string
	Advice() string
}

var (
	_ coded = (*Error)(nil)
	_ coded = (*CorruptError)(nil)
)

// wantError checks that an error is of a kind, has a code, and can be shown.
func wantError(t *testing.T, err, kind error, code string) {
	t.Helper()
	var c coded
	if !errors.As(err, &c) {
		t.Fatalf("got %v (%T), want an error with code %s", err, err, code)
	}
	if c.Code() != code || c.Hop() != "relay" || c.Advice() == "" {
		t.Errorf("got code %q, hop %q, advice %q of %v, want code %s", c.Code(), c.Hop(), c.Advice(), err, code)
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("%v is no %v", err, kind)
	}
}

func wantCorrupt(t *testing.T, err error, text string) {
	t.Helper()
	var c *CorruptError
	if !errors.As(err, &c) {
		t.Fatalf("got %v (%T), want a CorruptError", err, err)
	}
	wantError(t, err, nil, "state-corrupt")
	if !strings.Contains(err.Error(), text) {
		t.Errorf("%q does not say %q", err, text)
	}
}

func options(t *testing.T) Options {
	t.Helper()
	return Options{Dir: filepath.Join(t.TempDir(), "state")}
}

func mustInit(t *testing.T, opt Options) {
	t.Helper()
	if err := Init(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t *testing.T, opt Options) *State {
	t.Helper()
	s, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newState(t *testing.T) *State {
	t.Helper()
	opt := options(t)
	mustInit(t, opt)
	return mustOpen(t, opt)
}

func reopen(t *testing.T, s *State) *State {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, s.opt)
}

func publicKey(t testing.TB) []byte {
	t.Helper()
	key, err := certs.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// content is everything that a State knows, comparable.
func content(s *State) map[string]any {
	now := s.current.Load()
	all := map[string]any{"instance": now.instance.columns}
	put := func(r row) {
		if all[r.String()] != nil {
			panic("a row twice: " + r.String())
		}
		all[r.String()] = map[string]any{"columns": r.columns, "mac": r.mac.String()}
	}
	for _, a := range now.authorities {
		put(a.row)
	}
	for _, r := range now.tenants {
		put(r)
	}
	for _, g := range now.gateways {
		put(g.row)
	}
	for _, of := range now.nodes {
		for _, n := range of {
			put(n.row)
		}
	}
	for _, j := range now.jobs {
		put(j.row)
	}
	for _, t := range now.tokens {
		put(t.row)
	}
	return all
}

func wantSame(t *testing.T, got, want map[string]any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("content differs (-want +got):\n%s", d)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestFirst(t *testing.T) {
	opt := options(t)
	_, err := Open(t.Context(), opt)
	wantError(t, err, ErrMissing, "state-missing")
	if _, err := os.Lstat(opt.Dir); !os.IsNotExist(err) {
		t.Errorf("Open made the directory: %v", err)
	}
	mustInit(t, opt)
	for name, mode := range map[string]os.FileMode{".": 0o700, nameDatabase: 0o600, nameKey: 0o600, nameMarker: 0o600, "state.lock": 0o600} {
		info, err := os.Stat(filepath.Join(opt.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	if files, _ := os.ReadDir(opt.Dir); len(files) != 4 {
		t.Errorf("files: %v", files)
	}
	wantError(t, Init(t.Context(), opt), ErrExists, "state-exists")

	s := mustOpen(t, opt)
	if !validID(s.Instance()) || s.Revision() != 1 {
		t.Errorf("instance %q, revision %d", s.Instance(), s.Revision())
	}
	authorities := s.Authorities()
	if len(authorities) != 1 || authorities[0].TrustDomain() != s.Instance() || authorities[0].Generation() != 1 {
		t.Errorf("authorities: %v", authorities)
	}
	if got := s.Gateways(DefaultTenant); len(got) != 0 {
		t.Errorf("gateways: %v", got)
	}
	before := content(s)
	wantSame(t, content(reopen(t, s)), before)
}

func TestPragmas(t *testing.T) {
	s := newState(t)
	for name, want := range map[string]string{
		"journal_mode": "delete", "synchronous": "3", "foreign_keys": "1", "secure_delete": "1",
		"cell_size_check": "1", "busy_timeout": "2000",
	} {
		var got string
		if err := s.db.QueryRow("PRAGMA " + name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestGateways(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	corp := must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	if corp.Tenant != DefaultTenant || corp.Name != "corp" || !validID(corp.ID) || time.Since(corp.Created).Abs() > time.Minute {
		t.Errorf("made %+v", corp)
	}
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "a-lab"))
	for _, c := range []struct {
		tenant, name string
		kind         error
		code         string
	}{
		{DefaultTenant, "corp", ErrExists, "gateway-exists"},
		{"other", "corp", ErrNotFound, "tenant-unknown"},
		{DefaultTenant, "", ErrInvalid, "name-invalid"},
		{DefaultTenant, "Corp", ErrInvalid, "name-invalid"},
		{DefaultTenant, "corp.x", ErrInvalid, "name-invalid"},
		{DefaultTenant, "corp/x", ErrInvalid, "name-invalid"},
		{DefaultTenant, "corp\n", ErrInvalid, "name-invalid"},
		{DefaultTenant, strings.Repeat("x", 64), ErrInvalid, "name-invalid"},
		{"de fault", "corp", ErrInvalid, "name-invalid"},
	} {
		_, err := s.CreateGateway(ctx, c.tenant, c.name)
		wantError(t, err, c.kind, c.code)
	}
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, strings.Repeat("x", 63)))
	check := func(s *State) {
		t.Helper()
		var names []string
		for _, g := range s.Gateways(DefaultTenant) {
			names = append(names, g.Name)
		}
		if d := cmp.Diff([]string{"a-lab", "corp", strings.Repeat("x", 63)}, names); d != "" {
			t.Error(d)
		}
		if got := must[Gateway](t)(s.Gateway(DefaultTenant, "corp")); got != corp {
			t.Errorf("got %+v, want %+v", got, corp)
		}
	}
	check(s)
	s = reopen(t, s)
	check(s)
	_, err := s.Gateway(DefaultTenant, "corp2")
	wantError(t, err, ErrNotFound, "gateway-unknown")
	_, err = s.Gateway("other", "corp")
	wantError(t, err, ErrNotFound, "gateway-unknown")
	if got := s.Gateways("other"); len(got) != 0 {
		t.Errorf("another tenant sees %v", got)
	}
}

func TestKeys(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	corp := must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	lab := must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "lab"))
	keys := func(name string) [2]certs.Key {
		t.Helper()
		text1, text2, err := s.GatewayKeys(DefaultTenant, name)
		if err != nil {
			t.Fatal(err)
		}
		return [2]certs.Key{must[certs.Key](t)(certs.ParseKey(text1)), must[certs.Key](t)(certs.ParseKey(text2))}
	}
	accepted := func(k certs.Key, want Gateway, wantSlot string) {
		t.Helper()
		g, slot, err := s.CheckKey(k.GatewayID, k.Secret)
		if err != nil || g != want || slot != wantSlot {
			t.Errorf("got %+v, %q, %v, want %+v, %s", g, slot, err, want, wantSlot)
		}
		if k.Pin != s.Authorities()[0].Pin() {
			t.Error("the key has another pin")
		}
	}
	refused := func(id string, secret certs.Secret) {
		t.Helper()
		g, slot, err := s.CheckKey(id, secret)
		wantError(t, err, ErrRefused, "key-refused")
		if g != (Gateway{}) || slot != "" {
			t.Errorf("a refused key gave %+v, %q", g, slot)
		}
	}
	first := keys("corp")
	accepted(first[0], corp, Key1)
	accepted(first[1], corp, Key2)
	refused(lab.ID, first[0].Secret)
	refused(corp.ID, keys("lab")[0].Secret)
	refused(corp.ID, certs.Secret{})
	refused("", first[0].Secret)
	refused(strings.ToUpper(corp.ID), first[0].Secret)

	renewed := must[certs.Key](t)(certs.ParseKey(must[string](t)(s.RegenerateKey(ctx, DefaultTenant, "corp", Key1))))
	s = reopen(t, s)
	refused(corp.ID, first[0].Secret)
	accepted(renewed, corp, Key1)
	accepted(first[1], corp, Key2)
	if second := keys("corp"); second[0] != renewed || second[1] != first[1] {
		t.Error("the keys that are shown are not those that are accepted")
	}
	must[string](t)(s.RegenerateKey(ctx, DefaultTenant, "corp", Key2))
	refused(corp.ID, first[1].Secret)
	accepted(renewed, corp, Key1)

	_, err := s.RegenerateKey(ctx, DefaultTenant, "corp", "key3")
	wantError(t, err, ErrInvalid, "slot-invalid")
	_, err = s.RegenerateKey(ctx, DefaultTenant, "none", Key1)
	wantError(t, err, ErrNotFound, "gateway-unknown")
	_, err = s.RegenerateKey(ctx, "other", "corp", Key1)
	wantError(t, err, ErrNotFound, "gateway-unknown")
	_, _, err = s.GatewayKeys("other", "corp")
	wantError(t, err, ErrNotFound, "gateway-unknown")
}

func TestNodes(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "lab"))
	pub := publicKey(t)
	n := must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "b", pub))
	want := Node{Tenant: DefaultTenant, Gateway: "corp", Name: "b", PublicKey: pub, Stores: []StoreRow{}, Created: n.Created}
	if d := cmp.Diff(want, n); d != "" {
		t.Error(d)
	}
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "a", publicKey(t)))
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "lab", "b", publicKey(t)))
	for _, c := range []struct {
		tenant, gateway, name string
		pub                   []byte
		kind                  error
		code                  string
	}{
		{DefaultTenant, "corp", "b", pub, ErrExists, "node-exists"},
		{DefaultTenant, "none", "b", pub, ErrNotFound, "gateway-unknown"},
		{"other", "corp", "c", pub, ErrNotFound, "gateway-unknown"},
		{DefaultTenant, "corp", "C", pub, ErrInvalid, "name-invalid"},
		{DefaultTenant, "corp", "", pub, ErrInvalid, "name-invalid"},
		{DefaultTenant, "corp", "c", nil, ErrInvalid, "key-invalid"},
		{DefaultTenant, "corp", "c", pub[:len(pub)-1], ErrInvalid, "key-invalid"},
		{DefaultTenant, "corp", "c", make([]byte, 1<<20), ErrInvalid, "key-invalid"},
	} {
		_, err := s.RegisterNode(ctx, c.tenant, c.gateway, c.name, c.pub)
		wantError(t, err, c.kind, c.code)
	}
	s = reopen(t, s)
	var names []string
	for _, n := range s.Nodes(DefaultTenant, "corp") {
		names = append(names, n.Name)
	}
	if d := cmp.Diff([]string{"a", "b"}, names); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want, must[Node](t)(s.Node(DefaultTenant, "corp", "b"))); d != "" {
		t.Error(d)
	}
	_, err := s.Node(DefaultTenant, "lab", "a")
	wantError(t, err, ErrNotFound, "node-unknown")
	_, err = s.Node("other", "corp", "b")
	wantError(t, err, ErrNotFound, "node-unknown")
	if got := s.Nodes("other", "corp"); len(got) != 0 {
		t.Errorf("another tenant sees %v", got)
	}
}

func TestRenew(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	keys := make(map[byte][]byte)
	for name := byte('a'); name < 'h'; name++ {
		keys[name] = publicKey(t)
	}
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "n", keys['a']))
	for i, c := range []struct {
		counter       int
		key           byte
		refused       bool
		wantCounter   int
		current, past byte
		writes        bool
	}{
		{1, 'b', false, 1, 'b', 'a', true},
		{1, 'b', false, 1, 'b', 'a', false}, // the answer was lost, the request comes again
		{1, 'c', false, 1, 'c', 'a', true},  // and with another key: the node started anew
		{2, 'd', false, 2, 'd', 'c', true},
		{1, 'c', true, 2, 'd', 'c', false}, // an old copy
		{1, 'd', true, 2, 'd', 'c', false},
		{0, 'a', true, 2, 'd', 'c', false},
		{-1, 'a', true, 2, 'd', 'c', false},
		{9, 'e', false, 9, 'e', 'd', true}, // the relay was restored from a backup
		{maxCounter + 1, 'f', true, 9, 'e', 'd', false},
	} {
		before := s.Revision()
		n, err := s.RenewNode(ctx, DefaultTenant, "corp", "n", c.counter, keys[c.key])
		if c.refused {
			wantError(t, err, ErrRefused, "certificate-superseded")
		} else if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if i%3 == 2 {
			s = reopen(t, s)
		}
		now := must[Node](t)(s.Node(DefaultTenant, "corp", "n"))
		if !c.refused {
			if d := cmp.Diff(now, n); d != "" {
				t.Errorf("%d: returned and kept differ: %s", i, d)
			}
		}
		if now.Counter != c.wantCounter || !cmp.Equal(now.PublicKey, keys[c.current]) || !cmp.Equal(now.PreviousKey, keys[c.past]) {
			t.Errorf("%d: %+v", i, now)
		}
		if (s.Revision() != before) != c.writes {
			t.Errorf("%d: revision %d after %d", i, s.Revision(), before)
		}
	}
	_, err := s.RenewNode(ctx, DefaultTenant, "corp", "none", 1, keys['a'])
	wantError(t, err, ErrNotFound, "node-unknown")
	_, err = s.RenewNode(ctx, "other", "corp", "n", 10, keys['a'])
	wantError(t, err, ErrNotFound, "node-unknown")
	_, err = s.RenewNode(ctx, DefaultTenant, "corp", "n", 10, []byte("no key"))
	wantError(t, err, ErrInvalid, "key-invalid")
}

func TestStores(t *testing.T) {
	s := newState(t)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "n", publicKey(t)))
	first := []StoreRow{{"erp-sql", 1433, []string{"sql01.corp.local:1433"}}, {"files", 445, nil}}
	many := make([]StoreRow, maxStores+1)
	for i := range many {
		many[i] = StoreRow{Name: strings.Repeat("x", i%60+1), Port: 1}
	}
	for i, c := range []struct {
		stores []StoreRow
		code   string
		writes bool
	}{
		{nil, "", false},
		{first, "", true},
		{first, "", false},
		{first[:1], "", true},
		{[]StoreRow{}, "", true},
		{nil, "", false},
		{[]StoreRow{{"ERP", 1, nil}}, "name-invalid", false},
		{[]StoreRow{{"erp", 0, nil}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 65536, nil}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, nil}, {"erp", 2, nil}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{""}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{"a b"}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{"\xff"}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{strings.Repeat("x", maxAlias+1)}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, make([]string, maxAliases+1)}}, "stores-invalid", false},
		{many, "stores-invalid", false},
		{first, "", true},
	} {
		before := s.Revision()
		err := s.AnnounceStores(ctx, DefaultTenant, "corp", "n", c.stores)
		switch {
		case c.code != "":
			wantError(t, err, ErrInvalid, c.code)
		case err != nil:
			t.Fatalf("%d: %v", i, err)
		default:
			got := must[Node](t)(s.Node(DefaultTenant, "corp", "n")).Stores
			if d := cmp.Diff(append([]StoreRow{}, c.stores...), got); d != "" {
				t.Errorf("%d: %s", i, d)
			}
		}
		if (s.Revision() != before) != c.writes {
			t.Errorf("%d: revision %d after %d", i, s.Revision(), before)
		}
	}
	got := must[Node](t)(reopen(t, s).Node(DefaultTenant, "corp", "n")).Stores
	if d := cmp.Diff(first, got); d != "" {
		t.Error(d)
	}
	wantError(t, s.AnnounceStores(ctx, DefaultTenant, "corp", "none", first), ErrNotFound, "node-unknown")
}

func TestJobs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("x", 3600))
	opt := options(t)
	opt.Now = func() time.Time { return now }
	mustInit(t, opt)
	s := mustOpen(t, opt)
	ctx := t.Context()
	create := func(name string, allow ...string) (Job, certs.Token) {
		t.Helper()
		j, text, err := s.CreateJob(ctx, DefaultTenant, name, allow)
		if err != nil {
			t.Fatal(err)
		}
		return j, must[certs.Token](t)(certs.ParseToken(text))
	}
	j, token := create("nightly-copy", "corp/files", "corp/erp-sql", "corp/files", "lab/*")
	want := Job{
		Tenant: DefaultTenant, Name: "nightly-copy", ID: token.JobID,
		Allow: []string{"corp/erp-sql", "corp/files", "lab/*"}, Created: now.UTC().Truncate(time.Microsecond),
	}
	if d := cmp.Diff(want, j); d != "" {
		t.Error(d)
	}
	_, other := create("another", "corp/x")
	check := func(token certs.Token, kind error, code string) {
		t.Helper()
		got, err := s.CheckToken(token.JobID, token.Secret)
		if kind != nil {
			wantError(t, err, kind, code)
			if got.Name != "" {
				t.Errorf("a refused token gave %+v", got)
			}
			return
		}
		if err != nil || got.ID != token.JobID {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	check(token, nil, "")
	check(other, nil, "")
	check(certs.Token{JobID: token.JobID, Secret: other.Secret}, ErrRefused, "token-invalid")
	check(certs.Token{JobID: "", Secret: token.Secret}, ErrRefused, "token-invalid")
	for _, c := range []struct {
		tenant, name string
		allow        []string
		kind         error
		code         string
	}{
		{DefaultTenant, "nightly-copy", []string{"corp/x"}, ErrExists, "job-exists"},
		{"other", "nightly-copy", []string{"corp/x"}, ErrNotFound, "tenant-unknown"},
		{DefaultTenant, "J", []string{"corp/x"}, ErrInvalid, "name-invalid"},
		{DefaultTenant, "j", nil, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{""}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"corp"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"corp/"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"/x"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"*/x"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"*"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"corp/x/y"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"corp/x*"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", []string{"corp/x", "Corp/y"}, ErrInvalid, "allow-invalid"},
		{DefaultTenant, "j", make([]string, maxAllow+1), ErrInvalid, "allow-invalid"},
	} {
		_, text, err := s.CreateJob(ctx, c.tenant, c.name, c.allow)
		wantError(t, err, c.kind, c.code)
		if text != "" {
			t.Error("a refused job has a token")
		}
	}
	s = reopen(t, s)
	check(token, nil, "")
	if d := cmp.Diff(want, must[Job](t)(s.Job(DefaultTenant, "nightly-copy"))); d != "" {
		t.Error(d)
	}

	if err := s.RevokeJob(ctx, DefaultTenant, "nightly-copy"); err != nil {
		t.Fatal(err)
	}
	revision := s.Revision()
	if err := s.RevokeJob(ctx, DefaultTenant, "nightly-copy"); err != nil || s.Revision() != revision {
		t.Errorf("revoked twice: %v, revision %d after %d", err, s.Revision(), revision)
	}
	s = reopen(t, s)
	check(token, ErrRefused, "revoked")
	check(certs.Token{JobID: token.JobID, Secret: other.Secret}, ErrRefused, "token-invalid")
	check(other, nil, "")
	if j := must[Job](t)(s.Job(DefaultTenant, "nightly-copy")); !j.Revoked || j.Allows("corp", "files") {
		t.Errorf("revoked: %+v", j)
	}
	now = now.Add(time.Hour)
	again, second := create("nightly-copy", "corp/y")
	if again.Revoked || again.ID == token.JobID || !again.Created.After(j.Created) {
		t.Errorf("made again: %+v", again)
	}
	check(second, nil, "")
	check(token, ErrRefused, "revoked")
	s = reopen(t, s)
	check(second, nil, "")
	check(token, ErrRefused, "revoked")
	var names []string
	for _, j := range s.Jobs(DefaultTenant) {
		names = append(names, j.Name)
	}
	if d := cmp.Diff([]string{"another", "nightly-copy"}, names); d != "" {
		t.Error(d)
	}
	if got := s.Jobs("other"); len(got) != 0 {
		t.Errorf("another tenant sees %v", got)
	}
	wantError(t, s.RevokeJob(ctx, DefaultTenant, "none"), ErrNotFound, "job-unknown")
	wantError(t, s.RevokeJob(ctx, "other", "another"), ErrNotFound, "job-unknown")
	_, err := s.Job("other", "another")
	wantError(t, err, ErrNotFound, "job-unknown")
}

func TestAllows(t *testing.T) {
	j := Job{Allow: []string{"corp/erp-sql", "lab/*"}}
	for _, c := range []struct {
		gateway, store string
		want           bool
	}{
		{"corp", "erp-sql", true},
		{"corp", "files", false},
		{"corp", "*", false},
		{"corp", "", false},
		{"cor", "erp-sql", false},
		{"lab", "anything", true},
		{"lab", "", false},
		{"lab2", "anything", false},
		{"", "erp-sql", false},
		{"", "", false},
	} {
		if got := j.Allows(c.gateway, c.store); got != c.want {
			t.Errorf("%s/%s: %t", c.gateway, c.store, got)
		}
	}
	if (Job{}).Allows("corp", "erp-sql") {
		t.Error("a job without an allow list may dial")
	}
}

func TestClosed(t *testing.T) {
	s := newState(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	_, err := s.CreateGateway(t.Context(), DefaultTenant, "corp")
	wantError(t, err, ErrUnavailable, "state-unavailable")
	if len(s.Authorities()) != 1 {
		t.Error("reads ended")
	}
}

func TestCanceled(t *testing.T) {
	s := newState(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.CreateGateway(ctx, DefaultTenant, "corp"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	s.turn <- struct{}{} // another change is under way
	if _, err := s.CreateGateway(ctx, DefaultTenant, "corp"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-s.turn
	if s.Revision() != 1 {
		t.Errorf("revision %d", s.Revision())
	}
}
