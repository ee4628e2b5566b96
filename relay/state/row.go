package state

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

// The tables.
const (
	tableInstance    = "instance"
	tableAuthorities = "authorities"
	tableTenants     = "tenants"
	tableGateways    = "gateways"
	tableNodes       = "nodes"
	tableJobs        = "jobs"
	tableTokens      = "tokens"
)

// Every table has these two columns.
const (
	columnRevision = "revision"
	columnMAC      = "mac"
)

// tables are read in this order: what is referred to first.
var tables = []string{tableInstance, tableAuthorities, tableTenants, tableGateways, tableNodes, tableJobs, tableTokens}

// primary are the columns of each table's primary key.
var primary = map[string][]string{
	tableInstance:    {"id"},
	tableAuthorities: {"generation"},
	tableTenants:     {"name"},
	tableGateways:    {"tenant", "name"},
	tableNodes:       {"tenant", "gateway", "name"},
	tableJobs:        {"tenant", "name"},
	tableTokens:      {"id"},
}

// row is one row of a table. It is never changed, but replaced.
type row struct {
	table   string
	columns map[string]any // string or int64; all but the seal
	mac     seal
}

// with is the row with other values in some columns; its seal is not valid yet.
func (r row) with(columns map[string]any) row {
	all := maps.Clone(r.columns)
	maps.Copy(all, columns)
	return row{table: r.table, columns: all}
}

func (r row) revision() int64 {
	n, _ := r.columns[columnRevision].(int64)
	return n
}

// sealed is the row at a revision, with its seal.
func (r row) sealed(k *keyring, revision int64) row {
	r = r.with(map[string]any{columnRevision: revision})
	r.mac = k.row(r.table, r.columns)
	return r
}

func (r row) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s", r.table)
	for _, name := range primary[r.table] {
		fmt.Fprintf(&b, ", %s %.100q", name, fmt.Sprint(r.columns[name]))
	}
	return b.String()
}

// execer is a transaction.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// errConflict is a row, or the instance, that is not as it was read.
var errConflict = errors.New("the database was changed by another program")

// insert adds the row.
func (r row) insert(ctx context.Context, tx execer) error {
	names := slices.Sorted(maps.Keys(r.columns))
	marks := make([]string, 0, len(names)+1)
	args := make([]any, 0, len(names)+1)
	for i, name := range append(names, columnMAC) {
		marks = append(marks, fmt.Sprintf("$%d", i+1))
		if name == columnMAC {
			args = append(args, r.mac.String())
		} else {
			args = append(args, r.columns[name])
		}
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("INSERT INTO %s (%s, %s) VALUES (%s)",
		r.table, strings.Join(names, ", "), columnMAC, strings.Join(marks, ", ")), args...)
	return err
}

// update replaces what was read as old: an errConflict where that has changed.
func (r row) update(ctx context.Context, tx execer, old row) error {
	var set, where []string
	var args []any
	mark := func(name string, value any) string {
		args = append(args, value)
		return fmt.Sprintf("%s = $%d", name, len(args))
	}
	for _, name := range slices.Sorted(maps.Keys(r.columns)) {
		if !slices.Contains(primary[r.table], name) {
			set = append(set, mark(name, r.columns[name]))
		}
	}
	set = append(set, mark(columnMAC, r.mac.String()))
	for _, name := range primary[r.table] {
		where = append(where, mark(name, old.columns[name]))
	}
	where = append(where, mark(columnRevision, old.revision()))
	result, err := tx.ExecContext(ctx, fmt.Sprintf("UPDATE %s SET %s WHERE %s",
		r.table, strings.Join(set, ", "), strings.Join(where, " AND ")), args...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(errConflict, err)
	}
	return nil
}

// querier is a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// readTable reads what was written to a table after a revision, and checks each
// row's seal; 0: the table whole.
func readTable(ctx context.Context, q querier, k *keyring, table string, after int64) (list []row, err error) {
	query, args := "SELECT * FROM "+table, []any(nil)
	if after > 0 {
		query, args = query+" WHERE "+columnRevision+" > $1", []any{after}
	}
	found, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	names, err := found.Columns()
	if err != nil {
		return nil, err
	}
	values := make([]any, len(names))
	places := make([]any, len(names))
	for i := range values {
		places[i] = &values[i]
	}
	for found.Next() {
		if err := found.Scan(places...); err != nil {
			return nil, err
		}
		r := row{table: table, columns: make(map[string]any, len(names))}
		mac := ""
		for i, name := range names {
			switch v := values[i].(type) {
			case string:
				if name == columnMAC {
					mac = v
				} else {
					r.columns[name] = v
				}
			case int64:
				r.columns[name] = v
			default:
				return nil, &damage{fmt.Sprintf("table %s: column %s holds a %T", table, name, v)}
			}
		}
		r.mac, err = parseSeal(mac)
		if err != nil || r.mac != k.row(table, r.columns) {
			return nil, &damage{r.String() + ": the row's seal is broken"}
		}
		list = append(list, r)
	}
	return list, found.Err()
}

// damage is what Open turns into a CorruptError.
type damage struct{ reason string }

func (d *damage) Error() string { return d.reason }

// fields takes a row's columns out, and keeps the first error.
type fields struct {
	row  row
	keys *keyring
	err  error
}

func (f *fields) fail(name string, err error) {
	if f.err == nil {
		f.err = &damage{fmt.Sprintf("%s: column %s: %v", f.row, name, err)}
	}
}

func (f *fields) text(name string) string {
	v, ok := f.row.columns[name].(string)
	if !ok {
		f.fail(name, errors.New("not a text"))
	}
	return v
}

func (f *fields) number(name string) int64 {
	v, ok := f.row.columns[name].(int64)
	if !ok {
		f.fail(name, errors.New("not a number"))
	}
	return v
}

func (f *fields) time(name string) time.Time { return time.UnixMicro(f.number(name)).UTC() }

// bytes gives nil for an empty text.
func (f *fields) bytes(name string) []byte {
	text := f.text(name)
	if text == "" {
		return nil
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		f.fail(name, err)
	}
	return raw
}

func (f *fields) json(name string, into any) {
	if err := json.Unmarshal([]byte(f.text(name)), into); err != nil {
		f.fail(name, err)
	}
}

func (f *fields) decrypt(name, place string) []byte {
	plain, err := f.keys.decrypt(f.text(name), place)
	if err != nil {
		f.fail(name, err)
	}
	return plain
}

func (f *fields) secret(name, place string) certs.Secret {
	s, err := certs.SecretFrom(f.decrypt(name, place))
	if err != nil {
		f.fail(name, errors.New("not a secret"))
	}
	return s
}

func encodeBytes(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func encodeJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("state: BUG: a record is not JSON: " + err.Error())
	}
	return string(raw)
}
