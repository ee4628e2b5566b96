package connector

import (
	"errors"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

func TestRuns(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	r := newRuns()
	g := func(job, run string, expires time.Duration) grant.Grant {
		return grant.Grant{Job: job, Run: run, Expires: now.Add(expires)}
	}
	key := func(peer string, n byte) streamKey { return streamKey{peer, [16]byte{n}} }
	enter := func(k streamKey, gr grant.Grant, want bundle.Code) func() {
		t.Helper()
		err := r.enter(k, gr)
		var refused *bundle.RefusedError
		if want == bundle.CodeOK && err != nil || want != bundle.CodeOK && (!errors.As(err, &refused) || refused.Reason != want) {
			t.Fatalf("enter: %v, want %v", err, want)
		}
		return func() { r.leave(k) }
	}
	one := enter(key("a", 1), g("j", "1", time.Minute), bundle.CodeOK)
	two := enter(key("a", 2), g("j", "1", time.Minute), bundle.CodeOK)
	three := enter(key("b", 1), g("k", "1", time.Minute), bundle.CodeOK) // the same name, of another ingress
	enter(key("a", 1), g("j", "1", time.Minute), bundle.CodeProtocol)
	if r.active() != 2 || !r.of("j", key("a", 1)) || r.of("j", key("b", 1)) || r.of("j", key("a", 9)) {
		t.Errorf("%d runs, %v", r.active(), r.streams)
	}
	one()
	one()
	if r.active() != 2 {
		t.Errorf("%d runs after the first of two streams left", r.active())
	}
	two()
	three()
	if r.active() != 0 || len(r.streams) != 0 {
		t.Errorf("%d runs, %v", r.active(), r.streams)
	}

	// Grants that were there when the job was revoked are void, until they
	// expired for good; grants of a job of that name that is made later are not.
	r.revoke("j", now)
	enter(key("a", 1), g("j", "1", grant.MaxLife), bundle.CodeRevoked)
	enter(key("a", 1), g("j", "1", -time.Minute), bundle.CodeRevoked)
	enter(key("a", 1), g("j", "2", grant.MaxLife+clockSlack+time.Second), bundle.CodeOK)()
	enter(key("a", 1), g("k", "1", time.Minute), bundle.CodeOK)()
	r.revoke("other", now.Add(grant.MaxLife+clockLeeway))
	enter(key("a", 1), g("j", "1", grant.MaxLife), bundle.CodeRevoked)
	r.revoke("other", now.Add(grant.MaxLife+clockLeeway+clockSlack+time.Second))
	if len(r.revoked) != 1 {
		t.Errorf("still remembered: %v", r.revoked)
	}
}
