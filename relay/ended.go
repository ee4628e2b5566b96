package relay

import (
	"context"
	"encoding/hex"
	"regexp"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/activity"
	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// maxEndsReported bounds the ends of one message: as many as fit.
	maxEndsReported = 512
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
	if len(ends.Ends) > maxEndsReported {
		e := failure("protocol-violation", "relay", "use the same version at both ends", "%d ends in one message", len(ends.Ends))
		e.Final = true
		return nil, e
	}
	if !v.r.reporting.allow(v.identity, len(ends.Ends), time.Now()) {
		return nil, failure("reports-too-many", "relay", "they are sent again later", "more than %d ends a second of %s", endsRate, v.identity)
	}
	now := time.Now()
	answer := &tunnel.EndsTaken{}
	var halves []activity.Half
	for _, e := range ends.Ends {
		h, code := v.half(e, now)
		if code != endTaken {
			answer.Refused = append(answer.Refused, tunnel.EndRefused{UUID: e.UUID[:min(len(e.UUID), 36)], Reason: code})
			v.r.log.Warn("the report of a stream's end is refused", "from", v.identity.String(), "code", code, "ingress", plain(e.Ingress, maxReported), "node", plain(e.Node, maxReported), "job", plain(e.Job, maxReported))
		} else {
			halves = append(halves, h)
		}
		v.r.metrics.ends.WithLabelValues(code).Inc()
	}
	return answer, v.r.activity.Record(ctx, halves)
}

var (
	storeName  = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	reasonName = regexp.MustCompile(`^[a-z-]{1,40}$`)
)

// half checks an end against who reports it. A node speaks of streams at itself
// and of jobs of its tenant, a client of its own job's streams and of nodes of
// its tenant.
func (v *visit) half(e tunnel.Ended, now time.Time) (h activity.Half, code string) {
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
	}
	job, err := v.r.state.Job(v.identity.Tenant, e.Job)
	switch {
	case err != nil:
		return h, "job-unknown"
	case v.node == nil && !job.Allows(node.Gateway, e.Store):
		return h, "job-not-allowed"
	}
	if h, code = halfOf(e, now); code != endTaken {
		return h, code
	}
	h.Side = activity.Ingress
	if v.node != nil {
		h.Side = activity.Node
	}
	h.Tenant, h.Job, h.Gateway, h.Node = v.identity.Tenant, e.Job, node.Gateway, node.Name
	return h, endTaken
}

// halfOf checks what an end says of its stream.
func halfOf(e tunnel.Ended, now time.Time) (h activity.Half, code string) {
	uuid, err := hex.DecodeString(strings.ReplaceAll(e.UUID, "-", ""))
	switch {
	case err != nil || len(uuid) != len(h.UUID):
		return h, "uuid-malformed"
	case !storeName.MatchString(e.Store):
		return h, "store-malformed"
	case !reasonName.MatchString(e.Reason):
		return h, "reason-malformed"
	case !(e.Seconds >= 0 && e.Seconds < maxStreamLife.Seconds() && e.Age >= 0 && e.Age < maxStreamLife.Seconds()):
		return h, "time-malformed"
	case min(e.BytesRead, e.BytesWritten, int64(e.Resumes), int64(e.Stalls), int64(e.Lanes)) < 0,
		max(int64(e.Resumes), int64(e.Stalls)) > maxCount, e.Lanes > maxLanes, max(e.BytesRead, e.BytesWritten) > activity.MaxBytes:
		return h, "count-malformed"
	}
	h = activity.Half{
		Run: plain(e.Run, maxRunName), Store: e.Store, Read: e.BytesRead, Written: e.BytesWritten, ReadCRC: e.ReadCRC32C, WrittenCRC: e.WrittenCRC32C,
		Resumes: e.Resumes, Stalls: e.Stalls, Lanes: e.Lanes, Reason: e.Reason, Remote: e.Remote,
	}
	copy(h.UUID[:], uuid)
	h.End = now.Add(-time.Duration(e.Age * float64(time.Second)))
	h.Start = h.End.Add(-time.Duration(e.Seconds * float64(time.Second)))
	return h, endTaken
}

// note records a stream of the relay's own ingresses.
func (d *dialer) note(job jobKey, n nodeKey, store, run string, report bundle.Report) {
	e := tunnel.EndedAtIngress(report)
	e.Store, e.Run = store, run
	h, code := halfOf(e, report.End)
	if code != endTaken {
		d.r.log.Error("a stream of the relay's own is not recorded", "uuid", e.UUID, "code", code)
		return
	}
	h.Side, h.Tenant, h.Job, h.Gateway, h.Node = activity.Ingress, job.tenant, job.job, n.gateway, n.node
	d.r.activity.Note(h)
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
			Result: u.Result, Reason: u.Reason, Hop: u.Hop, Failed: u.Failed, Lost: u.Lost, Differs: u.Differ, OneSided: u.OneSided,
		}
		for _, d := range u.Differences {
			run.Differences = append(run.Differences, admin.Difference{UUID: d.UUID, Ingress: admin.Numbers(d.Ingress), Node: admin.Numbers(d.Node)})
		}
		answer.Runs = append(answer.Runs, run)
	}
	return answer, err
}
