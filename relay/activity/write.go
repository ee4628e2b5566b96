package activity

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// sideColumns are a side's, in the order of [side]'s fields; %s is the side.
var sideColumns = []string{"reason", "remote", "started", "ended", "read", "written", "read_crc", "written_crc", "resumes", "stalls", "lanes"}

func columnsOf(s Side) []string {
	list := make([]string, len(sideColumns))
	for i, name := range sideColumns {
		list[i] = s.String() + "_" + name
	}
	return list
}

func (s *side) values() []any {
	return []any{s.reason, s.remote, s.started, s.ended, s.read, s.written, s.readCRC, s.writtenCRC, s.resumes, s.stalls, s.lanes}
}

func (s *side) places() []any {
	return []any{&s.reason, &s.remote, &s.started, &s.ended, &s.read, &s.written, &s.readCRC, &s.writtenCRC, &s.resumes, &s.stalls, &s.lanes}
}

// insertHalf puts a side into a stream where it is not there yet, and gives the
// other side. A repeated half gives no row.
var insertHalf = [2]string{halfStatement(Ingress, Node), halfStatement(Node, Ingress)}

func halfStatement(s, other Side) string {
	var set []string
	for _, name := range columnsOf(s) {
		set = append(set, name+" = excluded."+name)
	}
	return fmt.Sprintf("INSERT INTO streams (run, uuid, recorded, %s) VALUES (%s) ON CONFLICT (run, uuid) DO UPDATE SET %s WHERE streams.%s_reason = '' RETURNING %s",
		strings.Join(columnsOf(s), ", "), marks(3+len(sideColumns)), strings.Join(set, ", "), s, strings.Join(columnsOf(other), ", "))
}

func marks(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("$%d", i+1)
	}
	return strings.Join(list, ", ")
}

// change is what a batch adds to a run.
type change struct {
	half                           *Half // any of the run's
	id                             string
	started, ended                 int64
	streams, oneSided              int64
	read, written, resumes, stalls int64
	results                        map[string]int64
	failedReason, failedHop        string
	lostReason, lostHop            string
}

// move takes one verdict of a stream out of the run and another one in.
func (c *change) move(was, is *verdict) {
	if was == nil {
		was = &verdict{}
		c.streams++
		c.oneSided++
	} else {
		c.results[was.result]--
		c.oneSided--
	}
	c.results[is.result]++
	c.read += is.read - was.read
	c.written += is.written - was.written
	c.resumes += is.resumes - was.resumes
	c.stalls += is.stalls - was.stalls
	c.started, c.ended = min(c.started, is.started), max(c.ended, is.ended)
	switch is.result {
	case Failed:
		c.failedReason, c.failedHop = is.reason, is.hop
	case Lost:
		c.lostReason, c.lostHop = is.reason, is.hop
	}
}

// insertRun adds to a run. Sums end somewhere above 2^62, so that nobody makes
// them overflow: a batch adds at most [maxBatch] times [MaxBytes].
const insertRun = `INSERT INTO runs (id, tenant, job, run, gateway, node, store, started, ended, streams, bytes_read, bytes_written, resumes, stalls,
 failed, lost, differ, one_sided, failed_reason, failed_hop, lost_reason, lost_hop)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
ON CONFLICT (id) DO UPDATE SET
 started = CASE WHEN excluded.started < runs.started THEN excluded.started ELSE runs.started END,
 ended = CASE WHEN excluded.ended > runs.ended THEN excluded.ended ELSE runs.ended END,
 streams = runs.streams + excluded.streams,
 bytes_read = CASE WHEN runs.bytes_read > 4611686018427387904 THEN runs.bytes_read ELSE runs.bytes_read + excluded.bytes_read END,
 bytes_written = CASE WHEN runs.bytes_written > 4611686018427387904 THEN runs.bytes_written ELSE runs.bytes_written + excluded.bytes_written END,
 resumes = runs.resumes + excluded.resumes,
 stalls = runs.stalls + excluded.stalls,
 failed = runs.failed + excluded.failed,
 lost = runs.lost + excluded.lost,
 differ = runs.differ + excluded.differ,
 one_sided = runs.one_sided + excluded.one_sided,
 failed_reason = CASE WHEN excluded.failed_reason = '' THEN runs.failed_reason ELSE excluded.failed_reason END,
 failed_hop = CASE WHEN excluded.failed_reason = '' THEN runs.failed_hop ELSE excluded.failed_hop END,
 lost_reason = CASE WHEN excluded.lost_reason = '' THEN runs.lost_reason ELSE excluded.lost_reason END,
 lost_hop = CASE WHEN excluded.lost_reason = '' THEN runs.lost_hop ELSE excluded.lost_hop END`

// placed is a half with its keys.
type placed struct {
	*Half
	run, uuid string
}

// write writes a batch in one transaction: each half into its stream, and what
// that changes into the runs. Rows are locked in one order, so that two relays
// never wait for each other in a circle.
func (r *Recorder) write(ctx context.Context, db *database, batch []entry) error {
	var list []placed
	for _, e := range batch {
		for i := range e.halves {
			h := &e.halves[i]
			list = append(list, placed{h, h.runID(), h.uuidText()})
		}
	}
	slices.SortStableFunc(list, func(a, b placed) int { return cmp.Or(strings.Compare(a.run, b.run), strings.Compare(a.uuid, b.uuid)) })
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	w := &writing{recorded: r.cfg.Now().UnixMicro(), changes: make(map[string]*change), results: make(map[string]int)}
	if err := w.write(ctx, tx, list); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	r.added(w)
	r.metrics.halves.WithLabelValues(recorded).Add(float64(len(list) - w.repeats))
	r.metrics.halves.WithLabelValues(repeated).Add(float64(w.repeats))
	for result, n := range w.results {
		r.metrics.results.WithLabelValues(result).Add(float64(n))
	}
	for _, d := range w.differences {
		r.log.Error("the two ends of a stream do not say the same", "uuid", d.UUID, "job", d.half.Job, "run", d.half.Run, "node", d.half.Gateway+"/"+d.half.Node, "store", d.half.Store,
			"ingress_read", d.Ingress.BytesRead, "node_read", d.Node.BytesRead, "ingress_written", d.Ingress.BytesWritten, "node_written", d.Node.BytesWritten,
			"ingress_read_crc32c", d.Ingress.ReadCRC32C, "node_read_crc32c", d.Node.ReadCRC32C, "ingress_written_crc32c", d.Ingress.WrittenCRC32C, "node_written_crc32c", d.Node.WrittenCRC32C)
	}
	return nil
}

// writing is one transaction.
type writing struct {
	recorded    int64
	changes     map[string]*change // by run
	streams     int64              // new ones
	repeats     int
	results     map[string]int
	differences []difference
}

type difference struct {
	Difference
	half *Half
}

func (w *writing) write(ctx context.Context, tx *sql.Tx, list []placed) error {
	var statements [2]*sql.Stmt
	for side, text := range insertHalf {
		s, err := tx.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		defer s.Close()
		statements[side] = s
	}
	for _, h := range list {
		if err := w.put(ctx, statements[h.Side], h); err != nil {
			return err
		}
	}
	run, err := tx.PrepareContext(ctx, insertRun)
	if err != nil {
		return err
	}
	defer run.Close()
	for _, id := range slices.Sorted(maps.Keys(w.changes)) {
		c := w.changes[id]
		h := c.half
		if _, err := run.ExecContext(ctx, id, h.Tenant, h.Job, h.Run, h.Gateway, h.Node, h.Store, c.started, c.ended, c.streams,
			c.read, c.written, c.resumes, c.stalls, c.results[Failed], c.results[Lost], c.results[Differs], c.oneSided,
			c.failedReason, c.failedHop, c.lostReason, c.lostHop); err != nil {
			return err
		}
	}
	return nil
}

// put puts one half into its stream.
func (w *writing) put(ctx context.Context, insert *sql.Stmt, h placed) error {
	own := h.side()
	var other side
	err := insert.QueryRowContext(ctx, append([]any{h.run, h.uuid, w.recorded}, own.values()...)...).Scan(other.places()...)
	if errors.Is(err, sql.ErrNoRows) {
		w.repeats++
		return nil
	}
	if err != nil {
		return err
	}
	ingress, node := own, other
	var before *verdict
	if h.Side == Node {
		ingress, node = other, own
	}
	is := judge(ingress, node)
	if other.there() {
		was := judge(ingress, side{})
		if h.Side == Ingress {
			was = judge(side{}, node)
		}
		before = &was
	} else {
		w.streams++
	}
	c := w.changes[h.run]
	if c == nil {
		c = &change{half: h.Half, id: h.run, started: is.started, ended: is.ended, results: make(map[string]int64)}
		w.changes[h.run] = c
	}
	c.move(before, &is)
	if before == nil || before.result != is.result {
		w.results[is.result]++
	}
	if is.result == Differs {
		w.differences = append(w.differences, difference{differenceOf(h.uuid, ingress, node), h.Half})
	}
	return nil
}
