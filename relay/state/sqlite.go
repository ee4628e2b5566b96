package state

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
)

// sqliteEngine keeps the tables in a file beside the marker.
type sqliteEngine struct{ path string }

func (e sqliteEngine) name() string { return e.path }

func (e sqliteEngine) shared() bool { return false }

func (e sqliteEngine) patience() time.Duration { return 0 }

func (e sqliteEngine) dialect() goose.Dialect { return goose.DialectSQLite3 }

func (e sqliteEngine) open() (*sql.DB, error) { return openDatabase(e.path, "rw") }

func (e sqliteEngine) tables(ctx context.Context, db *sql.DB) ([]string, error) {
	return readText(ctx, db, "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name", 4)
}

func (e sqliteEngine) model(ctx context.Context, fresh *sql.DB) ([]string, error) {
	return e.tables(ctx, fresh)
}

func (e sqliteEngine) read(_ context.Context, db *sql.DB, from func(querier) error) error {
	return from(db)
}

func (e sqliteEngine) announce(context.Context, execer, string, int64) error { return nil }

func (e sqliteEngine) guard(context.Context, *sql.DB) (func(), error) { return func() {}, nil }

// check is SQLite's own check.
func (e sqliteEngine) check(ctx context.Context, db *sql.DB) error {
	lines, err := readText(ctx, db, "PRAGMA integrity_check(3)", 1)
	if err != nil {
		return err
	}
	if !slices.Equal(lines, []string{"ok"}) {
		return &damage{fmt.Sprintf("SQLite's integrity_check says %.300q", strings.Join(lines, "; "))}
	}
	if err := e.whole(ctx, db); err != nil {
		return err
	}
	broken, err := db.QueryContext(ctx, "PRAGMA foreign_key_check")
	if err != nil {
		return err
	}
	defer broken.Close()
	if broken.Next() {
		return &damage{"a row refers to one that is not there"}
	}
	return broken.Err()
}

// whole refuses a file that was cut within a page that is not used yet.
func (e sqliteEngine) whole(ctx context.Context, db *sql.DB) error {
	var size int64
	if err := db.QueryRowContext(ctx, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").Scan(&size); err != nil {
		return err
	}
	info, err := os.Stat(e.path)
	if err != nil {
		return err
	}
	if info.Size() != size {
		return &damage{fmt.Sprintf("it has %d bytes, not %d", info.Size(), size)}
	}
	return nil
}

// busyTimeout is how long a change waits for another program's lock on the
// database, such as a backup's, in milliseconds.
const busyTimeout = 2000

// openDatabase opens a SQLite database with one connection, which is made at its
// first use. Mode is rw, or rwc to make the file. EXTRA makes a commit survive a
// power failure, directory entry of the journal included.
func openDatabase(path, mode string) (*sql.DB, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	slashed := filepath.ToSlash(absolute)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // a drive letter
	}
	dsn := (&url.URL{Scheme: "file", Path: slashed, RawQuery: url.Values{
		"mode":    {mode},
		"_txlock": {"immediate"},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout), "journal_mode(delete)", "synchronous(extra)",
			"foreign_keys(1)", "cell_size_check(1)", "trusted_schema(0)", "secure_delete(1)", "temp_store(memory)",
		},
	}.Encode()}).String()
	connector, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	db.SetConnMaxIdleTime(0)
	return db, nil
}
