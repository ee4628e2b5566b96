package tunnel

import (
	"context"
	"crypto"
	"fmt"

	"github.com/ebbgate/ebbgate/certs"
)

// EnrolOver asks the relay at the end of link for a certificate for key. It
// fills in req's CSR and its proof of possession, and closes the link. The link
// must have verified the relay (certs.PinnedConfig, or a trust from before).
func EnrolOver(ctx context.Context, link Link, key crypto.Signer, req Enrol, software string) (*Enrolled, error) {
	defer link.Close("enrolled")
	s := NewSession(link, SessionConfig{Initiator: true, Hello: Hello{Role: RoleEnrol, Software: software}})
	if _, err := s.Start(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = s.Run(ctx)
	}()
	defer func() { cancel(); <-over }()
	var err error
	if req.CSR, req.Proof, err = s.Possession(key); err != nil {
		return nil, err
	}
	answer := new(Enrolled)
	if err := s.Call(ctx, TypeEnrol, req, answer); err != nil {
		return nil, err
	}
	return answer, nil
}

// Possession makes a certificate request for key and the proof, bound to this
// session, that its maker holds it.
func (s *Session) Possession(key crypto.Signer) (csr, proof []byte, err error) {
	exporter, err := s.EnrolExporter()
	if err != nil {
		return nil, nil, fmt.Errorf("tunnel: enrol: %w", err)
	}
	if csr, err = certs.NewCSR(key); err != nil {
		return nil, nil, err
	}
	if proof, err = certs.Prove(key, exporter); err != nil {
		return nil, nil, fmt.Errorf("tunnel: enrol: %w", err)
	}
	return csr, proof, nil
}
