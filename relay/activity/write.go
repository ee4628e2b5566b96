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
		strings.Join(columnsOf(s), ", "), marks(1, 3+len(sideColumns)), strings.Join(set, ", "), s, strings.Join(columnsOf(other), ", "))
}

// rowsAtOnce are how many streams one statement writes, largest first.
var rowsAtOnce = []int{64, 8, 1}

// insertStreams puts streams in that are not there yet, so many, and gives the
// keys of these.
var insertStreams = func() map[int]string {
	texts := make(map[int]string)
	width := 3 + 2*len(sideColumns)
	for _, n := range rowsAtOnce {
		values := make([]string, n)
		for i := range values {
			values[i] = "(" + marks(1+i*width, width) + ")"
		}
		texts[n] = fmt.Sprintf("INSERT INTO streams (run, uuid, recorded, %s, %s) VALUES %s ON CONFLICT (run, uuid) DO NOTHING RETURNING run, uuid",
			strings.Join(columnsOf(Ingress), ", "), strings.Join(columnsOf(Node), ", "), strings.Join(values, ", "))
	}
	return texts
}()

// marks are n places for values, from the one of a number on.
func marks(first, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("$%d", first+i)
	}
	return strings.Join(list, ", ")
}

// change is what a batch adds to a run.
type change struct {
	names                          names
	started, ended                 int64
	streams, oneSided              int64
	read, written, resumes, stalls int64
	results                        map[string]int64
	failedReason, failedHop        string
	lostReason, lostHop            string
	refused                        int64
	refusedReason, refusedHop      string
}

// move takes one verdict of a stream out of the run and another one in, which is
// of both sides or of one. A new stream has none before.
func (c *change) move(was, is *verdict, sides int) {
	if was == nil {
		was = &verdict{}
		c.streams++
		c.oneSided += int64(2 - sides)
	} else {
		c.results[was.result]--
		c.oneSided--
	}
	c.results[is.result]++
	c.read += is.read - was.read
	c.written += is.written - was.written
	c.resumes += is.resumes - was.resumes
	c.stalls += is.stalls - was.stalls
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
 failed, lost, differ, one_sided, failed_reason, failed_hop, lost_reason, lost_hop, refused, refused_reason, refused_hop)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)
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
 lost_hop = CASE WHEN excluded.lost_reason = '' THEN runs.lost_hop ELSE excluded.lost_hop END,
 refused = runs.refused + excluded.refused,
 refused_reason = CASE WHEN excluded.refused_reason = '' THEN runs.refused_reason ELSE excluded.refused_reason END,
 refused_hop = CASE WHEN excluded.refused_reason = '' THEN runs.refused_hop ELSE excluded.refused_hop END`

// stream is what a batch knows of one: a half, or both.
type stream struct {
	run, uuid string
	halves    [2]*Half // by side
}

// any is one of its halves.
func (s *stream) any() *Half { return cmp.Or(s.halves[Ingress], s.halves[Node]) }

// streams brings the halves of a batch together; a half that comes twice counts as
// repeated. They are in the order in which all relays lock rows.
func (r *Recorder) streams(b batch) (list []stream, repeats int) {
	at := make(map[streamKey]int)
	add := func(h *Half) {
		key := streamKey{r.runID(h.names()), h.UUID}
		i, ok := at[key]
		if !ok {
			i = len(list)
			at[key] = i
			list = append(list, stream{run: key.run, uuid: h.uuidText()})
		}
		if list[i].halves[h.Side] != nil {
			repeats++
			return
		}
		list[i].halves[h.Side] = h
	}
	for i := range b.own {
		add(&b.own[i].Half)
	}
	for _, e := range b.reported {
		for i := range e.halves {
			add(&e.halves[i])
		}
	}
	slices.SortFunc(list, func(a, b stream) int { return cmp.Or(strings.Compare(a.run, b.run), strings.Compare(a.uuid, b.uuid)) })
	return list, repeats
}

type streamKey struct {
	run  string
	uuid [16]byte
}

// write writes a batch in one transaction: first the streams that nobody heard of
// before, many at once, then the halves of those that are there, then what that
// changes into the runs. Each time rows are locked in one order, so that two relays
// never wait for each other in a circle.
func (r *Recorder) write(ctx context.Context, db *database, b batch) error {
	list, repeats := r.streams(b)
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	w := &writing{recorded: r.cfg.Now().UnixMicro(), db: db, tx: tx, statements: make(map[string]*sql.Stmt), repeats: repeats, changes: make(map[string]*change), results: make(map[string]int)}
	if err := w.write(ctx, list); err != nil {
		return err
	}
	for n, more := range b.refused.by {
		w.refuse(r.runID(n), n, more)
	}
	if err := w.addUp(ctx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	r.added(w)
	r.metrics.halves.WithLabelValues(recorded).Add(float64(w.halves))
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
	db          *database
	tx          *sql.Tx
	statements  map[string]*sql.Stmt // of the transaction, by text
	changes     map[string]*change   // by run
	streams     int64                // new ones
	halves      int                  // new ones
	repeats     int
	results     map[string]int
	differences []difference
}

type difference struct {
	Difference
	half *Half
}

// writingStatements are the texts of what a transaction does.
func writingStatements() []string {
	return append(slices.Collect(maps.Values(insertStreams)), insertHalf[Ingress], insertHalf[Node], insertRun)
}

// statement gives a statement of the transaction, which closes it.
func (w *writing) statement(ctx context.Context, text string) (*sql.Stmt, error) {
	s := w.statements[text]
	if s != nil {
		return s, nil
	}
	if prepared := w.db.statements[text]; prepared != nil {
		s = w.tx.StmtContext(ctx, prepared)
	} else {
		var err error
		if s, err = w.tx.PrepareContext(ctx, text); err != nil {
			return nil, err
		}
	}
	w.statements[text] = s
	return s, nil
}

func (w *writing) write(ctx context.Context, list []stream) error {
	var known []stream
	for rest := list; len(rest) > 0; {
		n := rowsAtOnce[slices.IndexFunc(rowsAtOnce, func(n int) bool { return n <= len(rest) })]
		there, err := w.insert(ctx, rest[:n])
		if err != nil {
			return err
		}
		known, rest = append(known, there...), rest[n:]
	}
	for i := range known {
		for _, h := range known[i].halves {
			if h == nil {
				continue
			}
			if err := w.put(ctx, &known[i], h); err != nil {
				return err
			}
		}
	}
	return nil
}

// insert puts streams in, and gives those that were there.
func (w *writing) insert(ctx context.Context, list []stream) (there []stream, err error) {
	statement, err := w.statement(ctx, insertStreams[len(list)])
	if err != nil {
		return nil, err
	}
	args := make([]any, 0, len(list)*(3+2*len(sideColumns)))
	for i := range list {
		args = append(args, list[i].run, list[i].uuid, w.recorded)
		for _, h := range list[i].halves {
			own := side{}
			if h != nil {
				own = h.side()
			}
			args = append(args, own.values()...)
		}
	}
	rows, err := statement.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	fresh := make(map[[2]string]bool, len(list))
	for rows.Next() {
		var key [2]string
		if err := rows.Scan(&key[0], &key[1]); err != nil {
			return nil, err
		}
		fresh[key] = true
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for i := range list {
		if s := &list[i]; fresh[[2]string{s.run, s.uuid}] {
			w.begin(s)
		} else {
			there = append(there, *s)
		}
	}
	return there, nil
}

// begin counts a new stream.
func (w *writing) begin(s *stream) {
	var sides [2]side
	n := 0
	for i, h := range s.halves {
		if h != nil {
			sides[i] = h.side()
			n++
		}
	}
	w.streams++
	w.count(s, nil, sides, n)
	w.halves += n
}

// put puts one half into its stream, which is there.
func (w *writing) put(ctx context.Context, s *stream, h *Half) error {
	insert, err := w.statement(ctx, insertHalf[h.Side])
	if err != nil {
		return err
	}
	var sides [2]side
	own, other := &sides[h.Side], &sides[1-h.Side]
	*own = h.side()
	err = insert.QueryRowContext(ctx, append([]any{s.run, s.uuid, w.recorded}, own.values()...)...).Scan(other.places()...)
	if errors.Is(err, sql.ErrNoRows) {
		w.repeats++
		return nil
	}
	if err != nil {
		return err
	}
	w.halves++
	if !other.there() { // it was pruned a moment ago
		w.streams++
		w.count(s, nil, sides, 1)
		return nil
	}
	before := sides
	before[h.Side] = side{}
	was := judge(before[Ingress], before[Node])
	w.count(s, &was, sides, 2)
	return nil
}

// count changes the stream's run by what is known of it now.
func (w *writing) count(s *stream, was *verdict, sides [2]side, n int) {
	is := judge(sides[Ingress], sides[Node])
	c := w.of(s.run, s.any().names(), is.started, is.ended)
	c.move(was, &is, n)
	if was == nil || was.result != is.result {
		w.results[is.result]++
	}
	if is.result == Differs {
		w.differences = append(w.differences, difference{differenceOf(s.uuid, sides[Ingress], sides[Node]), s.any()})
	}
}

// of is the change of a run, which lasted from and to.
func (w *writing) of(id string, n names, started, ended int64) *change {
	c := w.changes[id]
	if c == nil {
		c = &change{names: n, started: started, ended: ended, results: make(map[string]int64)}
		w.changes[id] = c
	}
	c.started, c.ended = min(c.started, started), max(c.ended, ended)
	return c
}

// refuse adds refused dials to a run.
func (w *writing) refuse(id string, n names, more refusals) {
	c := w.of(id, n, more.first, more.last)
	c.refused += more.count
	c.refusedReason, c.refusedHop = more.reason, more.hop
}

// addUp adds the changes to the runs.
func (w *writing) addUp(ctx context.Context) error {
	run, err := w.statement(ctx, insertRun)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(w.changes)) {
		c := w.changes[id]
		n := c.names
		if _, err := run.ExecContext(ctx, id, n.tenant, n.job, n.run, n.gateway, n.node, n.store, c.started, c.ended, c.streams,
			c.read, c.written, c.resumes, c.stalls, c.results[Failed], c.results[Lost], c.results[Differs], c.oneSided,
			c.failedReason, c.failedHop, c.lostReason, c.lostHop, c.refused, c.refusedReason, c.refusedHop); err != nil {
			return err
		}
	}
	return nil
}
