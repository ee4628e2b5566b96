package state

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed migrations/*.sql
var embedded embed.FS

// migrations are the SQL files, without their folder.
func migrations() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic("state: BUG: no migrations: " + err.Error())
	}
	return sub
}

// schema makes and checks the tables.
type schema struct {
	files    fs.FS                                                                // migrations
	expected func(ctx context.Context, e engine, version int64) ([]string, error) // the tables that they make
}

func newSchema(files fs.FS) schema {
	s := schema{files: files}
	s.expected = s.tables
	return s
}

func (s schema) provider(db *sql.DB, dialect goose.Dialect) (*goose.Provider, error) {
	return goose.NewProvider(dialect, db, s.files, goose.WithDisableGlobalRegistry(true))
}

// migrate brings the tables up to date.
func (s schema) migrate(ctx context.Context, e engine, db *sql.DB) error {
	p, err := s.provider(db, e.dialect())
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// newerError is a database that a newer program made.
type newerError struct{ version, known int64 }

func (e *newerError) Error() string {
	return fmt.Sprintf("its tables have version %d, this program knows %d", e.version, e.known)
}

// check lets the database check itself and holds its tables against what the
// migrations make. It tells whether migrations are to be made.
func (s schema) check(ctx context.Context, e engine, db *sql.DB) (pending bool, err error) {
	if err := e.check(ctx, db); err != nil {
		return false, err
	}
	p, err := s.provider(db, e.dialect())
	if err != nil {
		return false, err
	}
	store, err := database.NewStore(e.dialect(), goose.DefaultTablename)
	if err != nil {
		return false, err
	}
	applied, err := store.ListMigrations(ctx, db)
	if err != nil {
		return false, err
	}
	known := []int64{0}
	for _, source := range p.ListSources() {
		known = append(known, source.Version)
	}
	slices.Reverse(applied) // now oldest first
	for i, a := range applied {
		if i == len(known) && a.IsApplied && a.Version > known[i-1] {
			return false, &newerError{applied[len(applied)-1].Version, known[i-1]}
		}
		if i >= len(known) || a.Version != known[i] || !a.IsApplied {
			return false, &damage{"the list of migrations is wrong"}
		}
	}
	if len(applied) == 0 {
		return false, &damage{"the list of migrations is empty"}
	}
	return len(applied) < len(known), s.compare(ctx, e, db, applied[len(applied)-1].Version)
}

// compare holds the tables against those of a fresh database.
func (s schema) compare(ctx context.Context, e engine, db *sql.DB, version int64) error {
	want, err := s.expected(ctx, e, version)
	if err != nil {
		return err
	}
	got, err := e.tables(ctx, db)
	if err != nil {
		return err
	}
	if !slices.Equal(want, got) {
		return &damage{"the tables are not those that this program makes"}
	}
	return nil
}

// tables makes a SQLite database in memory and lists its tables.
func (s schema) tables(ctx context.Context, e engine, version int64) ([]string, error) {
	fresh, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, err
	}
	defer fresh.Close()
	fresh.SetMaxOpenConns(1)
	p, err := s.provider(fresh, goose.DialectSQLite3)
	if err != nil {
		return nil, err
	}
	if _, err := p.UpTo(ctx, version); err != nil {
		return nil, err
	}
	return e.model(ctx, fresh)
}

// readText reads a query's columns of text, row after row.
func readText(ctx context.Context, db *sql.DB, query string, columns int) (list []string, err error) {
	found, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		values := make([]string, columns)
		places := make([]any, columns)
		for i := range values {
			places[i] = &values[i]
		}
		if err := found.Scan(places...); err != nil {
			return nil, err
		}
		list = append(list, values...)
	}
	return list, found.Err()
}

// load reads everything, and checks every seal and their sum.
func load(ctx context.Context, q querier, k *keyring) (*snapshot, error) {
	var all []row
	var sum seal
	for _, table := range tables {
		rows, err := readTable(ctx, q, k, table, 0)
		if err != nil {
			return nil, err
		}
		if table == tableInstance && len(rows) != 1 {
			return nil, &damage{fmt.Sprintf("table %s has %d rows", table, len(rows))}
		}
		for _, r := range rows {
			if table != tableInstance {
				sum = sum.xor(r.mac)
			}
		}
		all = append(all, rows...)
	}
	s, err := newSnapshot().with(k, all)
	if err != nil {
		return nil, err
	}
	if s.instance.columns["digest"] != sum.String() {
		return nil, &damage{"rows are missing, or of different times"}
	}
	if len(s.authorities) == 0 {
		return nil, &damage{"it has no CA"}
	}
	return s, nil
}
