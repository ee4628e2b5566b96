package activity

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxPage is the most runs that one page has.
const MaxPage = 1000

// maxDifferences bounds the streams that a run shows whose ends differ.
const maxDifferences = 10

// listTime bounds one reading.
const listTime = 10 * time.Second

// Query says which runs are wanted, newest first. Tenant is not empty; what else
// is empty is any.
type Query struct {
	Tenant             string
	Gateway, Node, Job string
	Since              time.Time // runs whose last stream ended later
	Limit              int       // 1 to MaxPage; 0 is MaxPage
	After              string    // Next of the page before
}

// Page is a part of the list.
type Page struct {
	Runs []Run
	Next string // for the page after this one; empty: this is the last one
}

// Run is what one run of a job did with one store by one node.
type Run struct {
	Job, Run, Gateway, Node, Store string
	Start, End                     time.Time
	Streams                        int64
	Failed, Lost, Differ           int64 // of them
	OneSided                       int64 // of them, those of which one end has not reported
	Refused                        int64 // dials that were refused; they are no streams
	BytesRead, BytesWritten        int64
	Resumes, Stalls                int64
	Result, Reason, Hop            string
	Differences                    []Difference // at most ten, where Result is Differs
}

// Difference is a stream whose two ends do not say the same.
type Difference struct {
	UUID          string
	Ingress, Node Numbers
}

// Numbers are what an end says of a stream.
type Numbers struct {
	BytesRead, BytesWritten   int64
	ReadCRC32C, WrittenCRC32C string
}

func differenceOf(uuid string, ingress, node side) Difference {
	return Difference{dashed(uuid), ingress.numbers(), node.numbers()}
}

func (s *side) numbers() Numbers {
	return Numbers{s.read, s.written, fmt.Sprintf("%08x", s.readCRC), fmt.Sprintf("%08x", s.writtenCRC)}
}

// InvalidError is a query that cannot be answered.
type InvalidError struct{ message string }

func (e *InvalidError) Error() string { return e.message }

// Code names the error.
func (*InvalidError) Code() string { return "query-invalid" }

// Hop is where it happened.
func (*InvalidError) Hop() string { return "relay" }

// Advice says what to do.
func (*InvalidError) Advice() string { return "use the ebbgate command of the relay's own version" }

// List reads runs. Its errors have Code, Hop and Advice, or are ctx's.
func (r *Recorder) List(ctx context.Context, q Query) (Page, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	if q.Limit <= 0 || q.Limit > MaxPage {
		q.Limit = MaxPage
	}
	text, args, err := q.statement()
	if err != nil {
		return Page{}, err
	}
	db, err := r.reading(ctx)
	if err != nil {
		return Page{}, err
	}
	page, ids, err := readRuns(ctx, db, q.Limit, text, args)
	for i := range page.Runs {
		if err == nil && page.Runs[i].Result == Differs {
			page.Runs[i].Differences, err = readDifferences(ctx, db, ids[i])
		}
	}
	if err != nil {
		if r.engine.damaged(err) {
			r.suspect(db, err)
		}
		return Page{}, unavailable(err)
	}
	return page, nil
}

// reading waits until there is a database, or a reason why there is none.
func (r *Recorder) reading(ctx context.Context) (*database, error) {
	for {
		r.mu.Lock()
		opened, db, trouble := r.opened, r.db, r.trouble
		r.mu.Unlock()
		switch {
		case db != nil:
			return db, nil
		case trouble != nil:
			return nil, unavailable(trouble)
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
	}
}

const runColumns = `id, job, run, gateway, node, store, started, ended, streams, bytes_read, bytes_written, resumes, stalls,
 failed, lost, differ, one_sided, failed_reason, failed_hop, lost_reason, lost_hop,
 refused, refused_reason, refused_hop`

// statement is the query as SQL. Each form of it has an index.
func (q Query) statement() (text string, args []any, err error) {
	where := []string{}
	add := func(condition string, values ...any) {
		list := make([]any, len(values))
		for i := range values {
			list[i] = len(args) + i + 1
		}
		where = append(where, fmt.Sprintf(condition, list...))
		args = append(args, values...)
	}
	add("tenant = $%d", q.Tenant)
	for column, value := range map[string]string{"gateway": q.Gateway, "node": q.Node, "job": q.Job} {
		if value != "" {
			add(column+" = $%d", value)
		}
	}
	if !q.Since.IsZero() {
		add("ended > $%d", q.Since.UnixMicro())
	}
	if q.After != "" {
		before, id, found := strings.Cut(q.After, ".")
		ended, err := strconv.ParseInt(before, 10, 64)
		if err != nil || !found || len(id) > 64 {
			return "", nil, &InvalidError{fmt.Sprintf("%.80q is no place in the list", q.After)}
		}
		add("(ended, id) < ($%d, $%d)", ended, id)
	}
	args = append(args, q.Limit+1)
	return fmt.Sprintf("SELECT %s FROM runs WHERE %s ORDER BY ended DESC, id DESC LIMIT $%d", runColumns, strings.Join(where, " AND "), len(args)), args, nil
}

func readRuns(ctx context.Context, db *database, limit int, text string, args []any) (page Page, ids []string, err error) {
	rows, err := db.read.QueryContext(ctx, text, args...)
	if err != nil {
		return page, nil, err
	}
	defer rows.Close()
	var last int64
	for rows.Next() {
		var u Run
		var id, failedReason, failedHop, lostReason, lostHop, refusedReason, refusedHop string
		var started, ended int64
		if err := rows.Scan(&id, &u.Job, &u.Run, &u.Gateway, &u.Node, &u.Store, &started, &ended, &u.Streams, &u.BytesRead, &u.BytesWritten,
			&u.Resumes, &u.Stalls, &u.Failed, &u.Lost, &u.Differ, &u.OneSided, &failedReason, &failedHop, &lostReason, &lostHop,
			&u.Refused, &refusedReason, &refusedHop); err != nil {
			return page, nil, err
		}
		if len(page.Runs) == limit {
			page.Next = strconv.FormatInt(last, 10) + "." + ids[limit-1]
			break
		}
		u.Start, u.End = time.UnixMicro(started).UTC(), time.UnixMicro(ended).UTC()
		switch {
		case u.Differ > 0:
			u.Result, u.Reason, u.Hop = Differs, reasonDiffers, Node.String()
		case u.Lost > 0:
			u.Result, u.Reason, u.Hop = Lost, lostReason, lostHop
		case u.Failed > 0:
			u.Result, u.Reason, u.Hop = Failed, failedReason, failedHop
		case u.Refused > 0:
			u.Result, u.Reason, u.Hop = Failed, refusedReason, refusedHop
		default:
			u.Result, u.Reason = Complete, ok
		}
		last = ended
		page.Runs, ids = append(page.Runs, u), append(ids, id)
	}
	return page, ids, rows.Err()
}

func readDifferences(ctx context.Context, db *database, run string) (list []Difference, err error) {
	rows, err := db.read.QueryContext(ctx, fmt.Sprintf(`SELECT uuid, %s, %s FROM streams WHERE run = $1 AND ingress_reason = 'ok' AND node_reason = 'ok'
 AND (ingress_read <> node_read OR ingress_written <> node_written OR ingress_read_crc <> node_read_crc OR ingress_written_crc <> node_written_crc)
 ORDER BY uuid LIMIT $2`, strings.Join(columnsOf(Ingress), ", "), strings.Join(columnsOf(Node), ", ")), run, maxDifferences)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var uuid string
		var ingress, node side
		if err := rows.Scan(append([]any{&uuid}, append(ingress.places(), node.places()...)...)...); err != nil {
			return nil, err
		}
		list = append(list, differenceOf(uuid, ingress, node))
	}
	return list, rows.Err()
}
