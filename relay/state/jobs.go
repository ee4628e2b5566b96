package state

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/certs"
)

const listJobs = "ebbgate job list shows the jobs"

// CreateJob makes a job and its token, which is never shown again. The allow
// list has gateway/store, or gateway/* for every store of a gateway; neither has
// to exist yet. The name of a revoked job may be used again: whoever knows jobs
// by their certificates must compare Job.Created with when those were issued.
func (s *State) CreateJob(ctx context.Context, tenant, name string, allow []string) (Job, string, error) {
	if err := checkNames("tenant", tenant, "job", name); err != nil {
		return Job{}, "", err
	}
	allow, err := checkAllow(allow)
	if err != nil {
		return Job{}, "", err
	}
	secret, id := certs.NewSecret(), newID()
	var text string
	err = s.change(ctx, "creating the job", func(now *snapshot) ([]edit, error) {
		if err := now.hasTenant(tenant); err != nil {
			return nil, err
		}
		columns := map[string]any{
			"tenant": tenant, "name": name, "token": id, "allow": encodeJSON(allow),
			"created": s.opt.now().UnixMicro(), "revoked": int64(0),
		}
		made := insertion(tableJobs, columns)
		if old := now.jobs[jobKey{tenant, name}]; old != nil {
			if !old.Revoked {
				return nil, already("job", name, "choose another name, or revoke the job first")
			}
			made = update(old.row, columns)
		}
		token := certs.Token{JobID: id, Secret: secret, Pin: now.pin()}
		text = token.Encode()
		hash := token.Hash()
		return []edit{made, insertion(tableTokens, map[string]any{
			"id": id, "tenant": tenant, "job": name, "hash": hex.EncodeToString(hash[:]),
			"created": columns["created"], "revoked": int64(0),
		})}, nil
	})
	if err != nil {
		return Job{}, "", err
	}
	j, err := s.Job(tenant, name)
	return j, text, err
}

func (s *snapshot) job(tenant, name string) (*job, error) {
	if j := s.jobs[jobKey{tenant, name}]; j != nil {
		return j, nil
	}
	return nil, notFound("job", name, listJobs)
}

// Job finds a job, revoked or not: [ErrNotFound] where there is none.
func (s *State) Job(tenant, name string) (Job, error) {
	j, err := s.current.Load().job(tenant, name)
	if err != nil {
		return Job{}, err
	}
	return j.Job, nil
}

// Jobs are a tenant's, revoked ones too, sorted by name.
func (s *State) Jobs(tenant string) []Job {
	var list []Job
	for key, j := range s.current.Load().jobs {
		if key.tenant == tenant {
			list = append(list, j.Job)
		}
	}
	slices.SortFunc(list, func(a, b Job) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// RevokeJob ends a job's token. Revoking it again changes nothing.
func (s *State) RevokeJob(ctx context.Context, tenant, name string) error {
	return s.change(ctx, "revoking the job", func(now *snapshot) ([]edit, error) {
		j, err := now.job(tenant, name)
		if err != nil || j.Revoked {
			return nil, err
		}
		t := now.tokens[j.ID]
		if t == nil {
			return nil, fmt.Errorf("state: BUG: job %s has no token", name)
		}
		revoked := map[string]any{"revoked": s.opt.now().UnixMicro()}
		return []edit{update(j.row, revoked), update(t.row, revoked)}, nil
	})
}

// CheckToken tells which job a token is of. A wrong or revoked one is an
// [ErrRefused].
func (s *State) CheckToken(jobID string, secret certs.Secret) (Job, error) {
	now := s.current.Load()
	t := now.tokens[jobID]
	hash := secret.Hash()
	if t == nil || subtle.ConstantTimeCompare(t.hash[:], hash[:]) != 1 {
		return Job{}, &Error{
			kind: ErrRefused, code: "token-invalid", message: "the job token is not valid",
			advice: "is it of this relay? A new one comes with ebbgate job create",
		}
	}
	j := now.jobs[t.key]
	if t.revoked || j == nil || j.Revoked || j.ID != jobID {
		return Job{}, &Error{
			kind: ErrRefused, code: "revoked", message: fmt.Sprintf("the token of job %s was revoked", t.key.name),
			advice: "create the job again with ebbgate job create",
		}
	}
	return j.Job, nil
}
