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
	goleak.VerifyTestMain(runner{m})
}

// runner ends the database server that tests share.
type runner struct{ *testing.M }

func (r runner) Run() int {
	defer closeShared()
	return r.M.Run()
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

// until waits for something.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(90 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("in vain: %s", what)
		}
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
	return stateIn(t, options(t))
}

func stateIn(t *testing.T, opt Options) *State {
	t.Helper()
	mustInit(t, opt)
	return mustOpen(t, opt)
}

// onEngines runs a test on SQLite and on PostgreSQL.
func onEngines(t *testing.T, test func(*testing.T, Options)) {
	t.Run("sqlite", func(t *testing.T) { test(t, options(t)) })
	t.Run("postgres", func(t *testing.T) {
		opt := options(t)
		opt.Postgres = postgresAt(t, sharedServer(t).Database(t))
		test(t, opt)
	})
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

func TestGateways(t *testing.T) { onEngines(t, testGateways) }

func testGateways(t *testing.T, opt Options) {
	s := stateIn(t, opt)
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

func TestKeys(t *testing.T) { onEngines(t, testKeys) }

func testKeys(t *testing.T, opt Options) {
	s := stateIn(t, opt)
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
	if second := keys("corp"); second[0].Encode() != renewed.Encode() || second[1].Encode() != first[1].Encode() {
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

func TestClosed(t *testing.T) { onEngines(t, testClosed) }

func testClosed(t *testing.T, opt Options) {
	s := stateIn(t, opt)
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

func TestCanceled(t *testing.T) { onEngines(t, testCanceled) }

func testCanceled(t *testing.T, opt Options) {
	s := stateIn(t, opt)
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
