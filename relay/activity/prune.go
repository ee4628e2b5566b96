package activity

import (
	"context"
	"fmt"
	"sync/atomic"
)

// pruneBatch is how many rows one transaction deletes.
const pruneBatch = 2000

// records is how many rows there are, as far as this relay knows. Only the
// recorder's goroutine changes it.
type records struct {
	streams, runs atomic.Int64
	prunes        int
}

// countEvery is how often, in prunings, what others added is counted.
const countEvery = 60

// count counts the rows, once.
func (r *Recorder) count(ctx context.Context, db *database) error {
	for table, n := range map[string]*atomic.Int64{"streams": &r.records.streams, "runs": &r.records.runs} {
		var rows int64
		if err := db.write.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&rows); err != nil {
			return err
		}
		n.Store(rows)
	}
	return nil
}

func (r *Recorder) added(w *writing) {
	r.records.streams.Add(w.streams)
	r.records.runs.Add(int64(len(w.changes))) // at most; counted again when that matters
}

// prune deletes what is older than records are kept, and what there is too much
// of, a piece at a time.
func (r *Recorder) prune(ctx context.Context, db *database) error {
	old := r.cfg.Now().Add(-r.cfg.Keep).UnixMicro()
	r.records.prunes++
	recount := r.engine.shared() && r.records.prunes%countEvery == 0
	if recount || r.records.streams.Load() > r.most || r.records.runs.Load() > r.most {
		if err := r.count(ctx, db); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		statement string
		rows      *atomic.Int64
	}{
		{pruneStatement("streams", "run, uuid", "recorded"), &r.records.streams},
		{pruneStatement("runs", "id", "ended"), &r.records.runs},
	} {
		for more := true; more && ctx.Err() == nil && !r.pending(); {
			surplus := min(max(t.rows.Load()-r.most, 0), pruneBatch)
			result, err := db.write.ExecContext(ctx, t.statement, old, pruneBatch, surplus)
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return err
			}
			t.rows.Add(-n)
			more = n >= pruneBatch || t.rows.Load() > r.most
		}
	}
	return nil
}

// pruneStatement deletes what is older than $1, at most $2 rows, and the $3
// oldest.
func pruneStatement(table, key, time string) string {
	return fmt.Sprintf(`DELETE FROM %[1]s WHERE (%[2]s) IN (SELECT %[2]s FROM %[1]s WHERE %[3]s < $1 ORDER BY %[3]s LIMIT $2)
 OR (%[2]s) IN (SELECT %[2]s FROM %[1]s ORDER BY %[3]s LIMIT $3)`, table, key, time)
}
