package relay

import (
	"slices"
	"time"

	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	// recallFor is how long after a job was revoked nodes that come are told of it:
	// they were away, perhaps, and have streams of it.
	recallFor = 24 * time.Hour
	// maxRecalls bounds the jobs that a node is told of, the newest ones.
	maxRecalls = 1024
)

// recall tells a node that comes which jobs were revoked lately.
func (v *visit) recall() {
	if v.node == nil || v.role != tunnel.RoleControl {
		return
	}
	since := time.Now().Add(-recallFor)
	jobs := slices.DeleteFunc(v.r.state.Jobs(v.identity.Tenant), func(j state.Job) bool { return !j.RevokedAt.After(since) })
	slices.SortFunc(jobs, func(a, b state.Job) int { return b.RevokedAt.Compare(a.RevokedAt) })
	for _, j := range jobs[:min(len(jobs), maxRecalls)] {
		if v.session.Notify(tunnel.TypeRevoked, tunnel.Revoked{Job: j.Name}) != nil {
			return // the session is over
		}
	}
}
