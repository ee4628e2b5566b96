package state

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/certs"
)

func TestJobs(t *testing.T) { onEngines(t, testJobs) }

func testJobs(t *testing.T, opt Options) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("x", 3600))
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
