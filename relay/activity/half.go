package activity

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"
)

// Side is an end of a stream.
type Side uint8

// The two ends.
const (
	Ingress Side = iota
	Node
)

func (s Side) String() string {
	if s == Node {
		return "node"
	}
	return "ingress"
}

// Half is what one end of a stream says about it. The caller has verified who
// says it, and that Tenant, Gateway, Node and Job are what that one may speak of.
type Half struct {
	Side Side

	Tenant, Job, Run     string
	Gateway, Node, Store string
	UUID                 [16]byte

	Start, End    time.Time
	Read, Written int64 // from the store, and to it, in bytes; at most MaxBytes
	ReadCRC       uint32
	WrittenCRC    uint32
	Resumes       int
	Stalls        int
	Lanes         int
	Reason        string // ok, or the code of the end; never empty
	Remote        bool   // the other end gave the reason
}

// MaxBytes bounds what one stream can say that it moved, each way: a petabyte.
const MaxBytes = 1 << 50

// ok is the reason of a good end.
const ok = "ok"

// names are everything that runs are told apart by.
type names struct{ tenant, job, run, gateway, node, store string }

func (h *Half) names() names { return names{h.Tenant, h.Job, h.Run, h.Gateway, h.Node, h.Store} }

// id names the run in the database.
func (n names) id() string {
	sum := sha256.New()
	for _, name := range []string{n.tenant, n.job, n.run, n.gateway, n.node, n.store} {
		fmt.Fprintf(sum, "%d %s ", len(name), name)
	}
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil)[:16])
}

// maxIDs bounds the ids that are remembered.
const maxIDs = 1024

// runID is the id of a run.
func (r *Recorder) runID(n names) string {
	id, ok := r.ids[n]
	if !ok {
		if len(r.ids) >= maxIDs || r.ids == nil {
			r.ids = make(map[names]string)
		}
		id = n.id()
		r.ids[n] = id
	}
	return id
}

func (h *Half) uuidText() string { return base64.RawURLEncoding.EncodeToString(h.UUID[:]) }

// dashed is a stored UUID as logs and reports print it.
func dashed(stored string) string {
	raw, err := base64.RawURLEncoding.DecodeString(stored)
	if err != nil || len(raw) != 16 {
		return stored
	}
	h := hex.EncodeToString(raw)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// side is a half as the database has it; without a reason there is none.
type side struct {
	reason              string
	remote              int64
	started, ended      int64 // microseconds since 1970
	read, written       int64
	readCRC, writtenCRC int64
	resumes, stalls     int64
	lanes               int64
}

func (h *Half) side() side {
	s := side{
		reason: h.Reason, started: h.Start.UnixMicro(), ended: h.End.UnixMicro(),
		read: h.Read, written: h.Written, readCRC: int64(h.ReadCRC), writtenCRC: int64(h.WrittenCRC),
		resumes: int64(h.Resumes), stalls: int64(h.Stalls), lanes: int64(h.Lanes),
	}
	if h.Remote {
		s.remote = 1
	}
	return s
}

func (s side) there() bool { return s.reason != "" }

// Results of streams and runs.
const (
	Complete = "complete"
	Failed   = "failed"
	Lost     = "lost"
	Differs  = "differs"
)

// reasonDiffers is the reason of Differs.
const reasonDiffers = "ends-differ"

// verdict is what a stream comes to, by what is known of it.
type verdict struct {
	result         string
	reason, hop    string
	started, ended int64
	read, written  int64
	resumes        int64
	stalls         int64
}

// judge makes a verdict of the halves that are there. The job's side of the
// numbers is the ingress': it is what exec and Report say, too.
func judge(ingress, node side) (v verdict) {
	first := ingress
	if !ingress.there() {
		first = node
	}
	v = verdict{
		started: first.started, ended: first.ended, read: first.read, written: first.written,
		resumes: max(ingress.resumes, node.resumes), stalls: max(ingress.stalls, node.stalls),
	}
	if node.there() {
		v.started, v.ended = min(v.started, node.started), max(v.ended, node.ended)
	}
	switch {
	case ingress.there() && node.there():
		v.result, v.reason, v.hop = both(ingress, node)
	case first.reason == ok:
		v.result, v.reason = Complete, ok
	case vanished[first.reason]:
		v.result, v.reason, v.hop = Lost, first.reason, Node.String()
		if !ingress.there() {
			v.hop = Ingress.String()
		}
	default:
		v.result, v.reason, v.hop = Failed, first.reason, hopOf(first.reason, !ingress.there())
	}
	return v
}

func both(ingress, node side) (result, reason, hop string) {
	switch {
	case ingress.reason == ok && node.reason == ok && same(ingress, node):
		return Complete, ok, ""
	case ingress.reason == ok && node.reason == ok:
		return Differs, reasonDiffers, Node.String()
	case ingress.reason == ok:
		return Failed, node.reason, hopOf(node.reason, true)
	case node.reason == ok:
		return Failed, ingress.reason, hopOf(ingress.reason, false)
	// who found out knows better than who was told, and any reason is better than
	// that the other one was gone
	case ingress.remote == 1 && node.remote == 0, vanished[ingress.reason] && !vanished[node.reason]:
		return Failed, node.reason, hopOf(node.reason, true)
	}
	return Failed, ingress.reason, hopOf(ingress.reason, false)
}

// same compares two good ends.
func same(a, b side) bool {
	return a.read == b.read && a.written == b.written && a.readCRC == b.readCRC && a.writtenCRC == b.writtenCRC
}

// vanished are the reasons that an end gives which has heard nothing of the other
// one.
var vanished = map[string]bool{"lanes-lost": true, "lane-silent": true, "end-restarted": true, "unknown-bundle": true}

// hops are where the reasons belong; what is missing belongs to the node.
var hops = map[string]string{
	"store-reset": "store", "store-unresolved": "store", "store-refused": "store", "store-timeout": "store",
	"store-unreachable": "store", "address-refused": "store", "store-unknown": "gateway", "store-not-allowed": "gateway",
	"lanes-lost": "relay", "lane-silent": "relay", "lane-refused": "relay", "grant-invalid": "relay", "grant-expired": "relay",
	"ingress-stopped": "ingress", "cancelled": "ingress", "job-reset": "job", "revoked": "registration",
}

func hopOf(reason string, seenByNode bool) string {
	switch hop := hops[reason]; {
	case hop != "":
		return hop
	case vanished[reason] && seenByNode:
		return Ingress.String()
	}
	return Node.String()
}
