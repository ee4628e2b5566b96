package tunnel

import (
	"context"
	"crypto"
)

// Enrol gets a first certificate over link, which it closes: it adds to req a
// request for key's public half and the proof that key is at this end of this
// link. Its error is a *PeerError where the relay refused.
func Enrol(ctx context.Context, link Link, hello Hello, req EnrolRequest, key crypto.Signer) (Enrolled, error) {
	panic("todo")
}

// ServeEnrol answers the one request of a session whose peer has said RoleEnrol,
// and ends the session. It is called after Start, in place of Run. exporter is
// what the request's proof must be made of (certs.CheckProof).
func ServeEnrol(ctx context.Context, s *Session, enrol func(ctx context.Context, req EnrolRequest, exporter []byte) (Enrolled, error)) error {
	panic("todo")
}
