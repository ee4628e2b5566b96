package client

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	enrolTime       = 30 * time.Second // for one attempt, proxies and all carriers included
	enrolRetryFirst = 250 * time.Millisecond
	enrolRetryMost  = 30 * time.Second
)

// firstEnrolment trades the token for the first certificate.
func (c *Client) firstEnrolment(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	return c.enrolUntil(ctx)
}

// renew replaces the certificate at about half of its life, again and again,
// until ctx ends (nil) or the token is refused.
func (c *Client) renew(ctx context.Context) error {
	for {
		left := time.Until(c.holder.Certificate().Leaf.NotAfter)
		// ±10 %, so that many jobs that began together do not go on together.
		pause(ctx, max(time.Duration(float64(left)*(0.45+0.1*rand.Float64())), enrolRetryFirst))
		if ctx.Err() != nil {
			return nil
		}
		if err := c.enrolUntil(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		c.renewed()
		c.log.Info("certificate renewed", "expires", c.holder.Certificate().Leaf.NotAfter)
	}
}

// enrolUntil enrols, again and again until it works, ctx ends or trying is
// useless.
func (c *Client) enrolUntil(ctx context.Context) error {
	bound := enrolRetryFirst
	var seen error
	for {
		err := c.enrol(ctx)
		if err == nil {
			return nil
		}
		deadline, limited := ctx.Deadline()
		over := ctx.Err() != nil || limited && !time.Now().Before(deadline) // a socket may notice before ctx does
		if over && seen != nil {
			return seen // this attempt was cut short and says less
		}
		wait := rand.N(bound) + bound/4
		if final(err) || over || limited && time.Until(deadline) < wait {
			return err
		}
		c.failed(c.roster.All()[0], err, wait)
		pause(ctx, wait)
		seen, bound = err, min(2*bound, enrolRetryMost)
	}
}

// enrolStagger is how long one relay has to enrol before the next one is asked, too.
const enrolStagger = 2 * time.Second

// enrol gets a certificate for a new key, from the relay that is first to give
// one. The key never leaves this process.
func (c *Client) enrol(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, enrolTime)
	defer cancel()
	relays := c.roster.All()
	key, err := certs.GenerateKey()
	if err != nil {
		return err
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	answers := make(chan enrolment, len(relays))
	failed := make([]error, 0, len(relays))
	next := time.NewTimer(0)
	defer next.Stop()
	for begun := 0; ; {
		select {
		case <-next.C:
			if begun < len(relays) {
				at := relays[begun]
				begun++
				asking.Go(func() { answers <- c.enrolAt(ctx, at, key) })
				next.Reset(enrolStagger)
			}
		case e := <-answers:
			if e.err == nil {
				return c.adopt(&certs.Saved{Key: key, Chain: e.answer.Chain, Roots: e.answer.Roots}, e)
			}
			if failed = append(failed, e.err); len(failed) == len(relays) {
				return worst(failed)
			}
			next.Reset(0)
		}
	}
}

// worst is the error to show where no relay enrolled: one that may pass, if there
// is one, for then another attempt is worth while.
func worst(failed []error) error {
	for _, err := range failed {
		if !final(err) {
			return err
		}
	}
	return failed[0]
}

// enrolment is one relay's answer.
type enrolment struct {
	at     tunnel.Endpoint
	answer *tunnel.Enrolled
	domain string // of the relay, whose CA has the token's pin
	err    error
}

// enrolAt asks one relay.
func (c *Client) enrolAt(ctx context.Context, at tunnel.Endpoint, key ed25519.PrivateKey) enrolment {
	var mu sync.Mutex
	domain := ""
	pinned := certs.PinnedConfig(c.token.Pin, []string{tunnel.ALPN}, func(t *certs.Trust, _ certs.Identity) {
		mu.Lock()
		defer mu.Unlock()
		domain = t.TrustDomain
	})
	link, err := c.dialer(at, &c.memory, func() *tls.Config { return pinned }).Dial(ctx)
	if err != nil {
		return enrolment{at: at, err: err}
	}
	answer, err := tunnel.EnrolOver(ctx, link, key, tunnel.Enrol{Kind: tunnel.EnrolJob, JobID: c.token.JobID, Secret: c.token.Secret}, c.cfg.Software)
	mu.Lock()
	defer mu.Unlock()
	return enrolment{at, answer, domain, err}
}

// adopt checks what the relay issued and uses it from now on.
func (c *Client) adopt(issued *certs.Saved, e enrolment) error {
	unfit := func(err error) error {
		return &Error{
			code: "certificate-unfit", hop: "registration", message: "the relay issued a certificate that is of no use", err: err,
			advice: "see whether the clocks of this machine and of the relay agree",
		}
	}
	cert, err := issued.Certificate()
	if err != nil {
		return unfit(err)
	}
	trust, err := issued.Trust()
	if err != nil {
		return unfit(err)
	}
	id, err := certs.CertificateIdentity(cert.Leaf)
	if err != nil {
		return unfit(err)
	}
	now := time.Now()
	switch {
	case id.Role != certs.RoleJob || id.TrustDomain != e.domain:
		return unfit(fmt.Errorf("it names %s", id))
	case now.Before(cert.Leaf.NotBefore) || !now.Before(cert.Leaf.NotAfter):
		return unfit(fmt.Errorf("it is valid from %s to %s", cert.Leaf.NotBefore, cert.Leaf.NotAfter))
	}
	c.mu.Lock()
	if c.identity != (certs.Identity{}) && c.identity != id {
		defer c.mu.Unlock()
		return unfit(fmt.Errorf("this process was %s and would be %s", c.identity, id))
	}
	c.holder.Set(cert)
	c.identity, c.trust = id, trust
	c.portsLocked(e)
	seeds := slices.Clone(c.seeds)
	c.mu.Unlock()
	c.roster.Reseed(seeds, len(seeds) > 1)
	c.told(e.answer.Relays)
	return nil
}

// portsLocked takes the ports that a relay that was named announces for itself.
func (c *Client) portsLocked(e enrolment) {
	i := slices.Index(c.seeds, e.at)
	if ports := e.answer.Ports; i >= 0 && (ports.TLS != 0 || ports.QUIC != 0) {
		c.seeds[i].QUICPort = ports.QUIC // 0: none
		if c.cfg.HTTPPort == 0 {
			c.seeds[i].HTTPPort = ports.HTTP
		}
	}
}

// permanent is an error that says of itself that trying again is useless.
type permanent interface {
	error
	Permanent() bool
}

// final says whether trying again is useless until somebody changes something.
func final(err error) bool {
	if e, ok := errors.AsType[permanent](err); ok && e.Permanent() {
		return true
	}
	if e, ok := errors.AsType[*Error](err); ok && e.hop == "config" {
		return true
	}
	e, ok := errors.AsType[*tunnel.Error](err)
	if !ok {
		return false
	}
	switch e.ErrCode {
	case "relay-unknown", "role-refused", "version-mismatch", "no-carrier":
		return true
	}
	return e.Final || e.ErrHop == "registration"
}
