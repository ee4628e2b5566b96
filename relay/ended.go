package relay

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/google/uuid"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/activity"
	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// maxStreamLife bounds how long a stream can have lasted, and how long ago it
	// can have ended.
	maxStreamLife = 10 * 365 * 24 * time.Hour
	maxLanes      = 1 << 10
	maxCount      = 1 << 30 // of resumes and stalls
	maxRunName    = 128
)

// endTaken is the count of ends that were handed to the activity record.
const endTaken = "taken"

// ended takes the halves that a node or a client reports. What it may not speak
// of is refused by name; the answer waits until the rest is on the disk.
func (v *visit) ended(ctx context.Context, ends tunnel.Ends) (*tunnel.EndsTaken, error) {
	now := time.Now()
	count := 0
	for _, g := range ends.Groups {
		count += max(len(g.Ends)/tunnel.EndSize, 1) // a group of none costs as much as one
	}
	if !v.r.reporting.allow(v.identity, count, now) {
		return nil, failure("reports-too-many", "relay", "they are sent again later", "more than %d ends a second of %s", endsRate, v.identity)
	}
	answer := &tunnel.EndsTaken{}
	halves := make([]activity.Half, 0, count)
	for i, g := range ends.Groups {
		before := len(halves)
		refused := make(map[string]int)
		halves = v.halves(halves, g, now, refused)
		for code, n := range refused {
			answer.Refused = append(answer.Refused, tunnel.EndRefused{Group: i, Ends: n, Code: code})
			v.r.metrics.ends.WithLabelValues(code).Add(float64(n))
			v.r.log.Warn("reports of streams' ends are refused", "from", v.identity.String(), "code", code, "ends", n, "ingress", plain(g.Ingress, maxReported), "node", plain(g.Node, maxReported), "job", plain(g.Job, maxReported))
		}
		v.r.metrics.ends.WithLabelValues(endTaken).Add(float64(len(halves) - before)) // refused dials are counted by the record
	}
	return answer, v.r.activity.Record(ctx, halves)
}

// halves appends what a group's ends say, and counts what is refused.
func (v *visit) halves(list []activity.Half, g tunnel.EndsOf, now time.Time, refused map[string]int) []activity.Half {
	names, code := v.names(g.Names)
	ends, err := g.Decode()
	if err != nil {
		refused["ends-malformed"]++
		return list
	}
	for _, e := range ends {
		h := names
		why := code
		if why == endTaken {
			why = describe(&h, e, now)
		}
		if why != endTaken {
			refused[why]++
			continue
		}
		if e.Refused {
			v.r.activity.Refuse(activity.Refusal{
				Tenant: h.Tenant, Job: h.Job, Run: h.Run, Gateway: h.Gateway, Node: h.Node, Store: h.Store,
				UUID: h.UUID, At: h.End, Reason: h.Reason, Hop: cmp.Or(refusals[e.Reason].hop, "node"),
			})
			continue
		}
		list = append(list, h)
	}
	return list
}

var storeName = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// names checks what streams are said to have been against who says it. A node
// speaks of streams at itself and of jobs of its tenant, a client of its own
// job's streams and of nodes of its tenant.
func (v *visit) names(e tunnel.Names) (h activity.Half, code string) {
	ingress, err := certs.ParseIdentity(e.Ingress)
	if err != nil {
		return h, "ingress-malformed"
	}
	node, err := certs.ParseIdentity(e.Node)
	if err != nil || node.Role != certs.RoleNode {
		return h, "node-malformed"
	}
	own, far := ingress, node
	if v.node != nil {
		own, far = node, ingress
	}
	switch {
	case own != v.identity && v.node != nil:
		return h, "node-foreign"
	case own != v.identity:
		return h, "job-foreign"
	case far.TrustDomain != own.TrustDomain, far.Role != certs.RoleRelay && far.Tenant != own.Tenant:
		return h, "tenant-foreign"
	case ingress.Role == certs.RoleJob && e.Job != ingress.Name:
		return h, "job-foreign"
	case ingress.Role != certs.RoleJob && ingress.Role != certs.RoleRelay:
		return h, "ingress-malformed"
	case !storeName.MatchString(e.Store):
		return h, "store-malformed"
	}
	job, err := v.r.state.Job(v.identity.Tenant, e.Job)
	switch {
	case err != nil:
		return h, "job-unknown"
	case v.node == nil && !job.Allows(node.Gateway, e.Store):
		return h, "job-not-allowed"
	}
	h = activity.Half{
		Side: activity.Ingress, Tenant: v.identity.Tenant, Job: e.Job, Run: plain(e.Run, maxRunName),
		Gateway: node.Gateway, Node: node.Name, Store: e.Store,
	}
	if v.node != nil {
		h.Side = activity.Node
	}
	return h, endTaken
}

// describe adds what an end says of its stream.
func describe(h *activity.Half, e tunnel.End, now time.Time) (code string) {
	switch {
	case max(e.Lasted, e.Age) >= maxStreamLife:
		return "time-malformed"
	case min(e.BytesRead, e.BytesWritten, int64(e.Resumes), int64(e.Stalls), int64(e.Lanes)) < 0,
		max(e.Resumes, e.Stalls) > maxCount, e.Lanes > maxLanes, max(e.BytesRead, e.BytesWritten) > activity.MaxBytes:
		return "count-malformed"
	}
	h.UUID, h.Read, h.Written, h.ReadCRC, h.WrittenCRC = e.UUID, e.BytesRead, e.BytesWritten, e.ReadCRC32C, e.WrittenCRC32C
	h.Resumes, h.Stalls, h.Lanes, h.Reason, h.Remote = e.Resumes, e.Stalls, e.Lanes, e.Reason.String(), e.Remote
	h.End = now.Add(-e.Age)
	h.Start = h.End.Add(-e.Lasted)
	return endTaken
}

// note records a stream of the relay's own ingresses.
func (d *dialer) note(job jobKey, n nodeKey, store, run string, report bundle.Report) {
	h := activity.Half{Side: activity.Ingress, Tenant: job.tenant, Job: job.job, Run: plain(run, maxRunName), Gateway: n.gateway, Node: n.node, Store: store}
	if code := describe(&h, tunnel.EndAtIngress(report), report.End); code != endTaken {
		d.r.log.Error("a stream of the relay's own is not recorded", "uuid", uuid.UUID(report.UUID).String(), "code", code)
		return
	}
	d.r.activity.Note(h)
}

// refused records a dial that came to nothing: one of the relay's own ingresses, or
// a client's question for a grant. What the job made up is recorded only as far as
// it could be a name.
func (d *dialer) refused(job jobKey, run string, at place, n nodeKey, err error) {
	var failed interface {
		Code() string
		Hop() string
	}
	if !errors.As(err, &failed) {
		return
	}
	x := activity.Refusal{Tenant: job.tenant, Job: job.job, Run: plain(run, maxRunName), Node: n.node, At: time.Now(), Reason: failed.Code(), Hop: failed.Hop()}
	if storeName.MatchString(at.gateway) && storeName.MatchString(at.store) {
		x.Gateway, x.Store = at.gateway, at.store
	}
	d.r.activity.Refuse(x)
}

// Activity lists what runs did.
func (s service) Activity(ctx context.Context, tenant string, q admin.ActivityQuery) (admin.Activity, error) {
	page, err := s.r.activity.List(ctx, activity.Query{
		Tenant: tenant, Gateway: q.Gateway, Node: q.Node, Job: q.Job, Since: q.Since, Limit: q.Limit, After: q.After,
	})
	answer := admin.Activity{Next: page.Next}
	for _, u := range page.Runs {
		run := admin.Run{
			Job: u.Job, Run: u.Run, Gateway: u.Gateway, Node: u.Node, Store: u.Store, Start: u.Start, End: u.End, Streams: u.Streams,
			BytesRead: u.BytesRead, BytesWritten: u.BytesWritten, Resumes: u.Resumes, Stalls: u.Stalls,
			Result: u.Result, Reason: u.Reason, Hop: u.Hop, Failed: u.Failed, Lost: u.Lost, Differs: u.Differ, Refused: u.Refused, OneSided: u.OneSided,
		}
		for _, d := range u.Differences {
			run.Differences = append(run.Differences, admin.Difference{UUID: d.UUID, Ingress: admin.Numbers(d.Ingress), Node: admin.Numbers(d.Node)})
		}
		answer.Runs = append(answer.Runs, run)
	}
	return answer, err
}
