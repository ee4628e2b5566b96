package activity

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed migrations/*.sql
var embedded embed.FS

// engine is what differs between a SQLite file, of one relay, and PostgreSQL,
// which several share. It belongs to the recorder's goroutine.
type engine interface {
	// name is what people read.
	name() string
	// open opens the database, makes what is missing and brings its tables up to
	// date.
	open(ctx context.Context) (*database, error)
	// gone tells whether the database was deleted, or replaced, behind our back.
	gone() bool
	// damaged tells whether an error means that it is no database of ours, aside
	// moves such a one, which is closed, out of the way and tells where to.
	damaged(err error) bool
	aside(now time.Time) (string, error)
	// shared tells whether others write, too.
	shared() bool
}

// migrations are the SQL files, without their folder.
func migrations() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic("activity: BUG: no migrations: " + err.Error())
	}
	return sub
}

// database is an open database: one connection that writes, some that read.
type database struct {
	write, read *sql.DB
	statements  map[string]*sql.Stmt // prepared for write, by text; what is missing each transaction prepares
}

func (d *database) close() error { return errors.Join(d.write.Close(), d.read.Close()) }

// numbered are the places for values, which the statements that write have once
// each and in their order.
var numbered = regexp.MustCompile(`\$[0-9]+`)

// prepare prepares the statements that write. Places have no numbers here: SQLite
// takes $1 for a name, and looks for it among all others each time.
func (d *database) prepare(ctx context.Context) error {
	d.statements = make(map[string]*sql.Stmt)
	for _, text := range writingStatements() {
		s, err := d.write.PrepareContext(ctx, numbered.ReplaceAllLiteralString(text, "?"))
		if err != nil {
			return err
		}
		d.statements[text] = s
	}
	return nil
}

// readers is how many may read at once.
const readers = 4

// file is the SQLite database in the relay's state directory.
type file struct {
	path   string
	opened os.FileInfo // as it was made or found
}

func (f *file) name() string { return f.path }

func (f *file) shared() bool { return false }

// open opens the file. FULL makes what was acknowledged survive a power failure.
func (f *file) open(ctx context.Context) (*database, error) {
	d := &database{}
	var err error
	if d.write, err = f.connect(1, nil); err != nil {
		return nil, err
	}
	if d.read, err = f.connect(readers, []string{"query_only(1)"}); err != nil {
		return nil, errors.Join(err, d.write.Close())
	}
	if err = migrate(ctx, goose.DialectSQLite3, d.write); err == nil {
		f.opened, err = os.Stat(f.path)
	}
	if err == nil {
		err = d.prepare(ctx) // the tables are those
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (f *file) connect(most int, pragmas []string) (*sql.DB, error) {
	absolute, err := filepath.Abs(f.path)
	if err != nil {
		return nil, err
	}
	slashed := filepath.ToSlash(absolute)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed // a drive letter
	}
	dsn := (&url.URL{Scheme: "file", Path: slashed, RawQuery: url.Values{
		"mode":    {"rwc"},
		"_txlock": {"immediate"},
		"_pragma": slices.Concat([]string{
			"busy_timeout(2000)", "journal_mode(wal)", "synchronous(full)", "journal_size_limit(16777216)",
			"trusted_schema(0)", "cell_size_check(1)", "temp_store(memory)",
		}, pragmas),
	}.Encode()}).String()
	connector, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(most)
	db.SetConnMaxIdleTime(0)
	return db, nil
}

// newerError is a database that a newer program made.
type newerError struct{ version, known int64 }

func (e *newerError) Error() string {
	return fmt.Sprintf("its tables have version %d, this program knows %d", e.version, e.known)
}

// migrate brings the tables up to date.
func migrate(ctx context.Context, dialect goose.Dialect, db *sql.DB, opt ...goose.ProviderOption) error {
	p, err := goose.NewProvider(dialect, db, migrations(), append(opt, goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return err
	}
	version, known, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if version > known {
		return &newerError{version, known}
	}
	_, err = p.Up(ctx)
	return err
}

func (f *file) gone() bool {
	now, err := os.Stat(f.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && f.opened != nil && !os.SameFile(now, f.opened)
}

// damaged goes by the result code.
func (f *file) damaged(err error) bool {
	var failed *sqlite.Error
	if !errors.As(err, &failed) {
		return false
	}
	switch failed.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
		return true
	case sqlite3.SQLITE_ERROR: // a table or column that is not there: the SQL is tested
		return true
	}
	return false
}

// full tells whether the disk is.
func full(err error) bool {
	var failed *sqlite.Error
	return errors.As(err, &failed) && failed.Code()&0xff == sqlite3.SQLITE_FULL || sqlState(err) == "53100"
}

// maxAside is how many damaged databases are kept.
const maxAside = 3

func (f *file) aside(now time.Time) (string, error) {
	to := f.path + ".damaged-" + now.UTC().Format("20060102T150405.000Z")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		err := os.Rename(f.path+suffix, to+suffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	old, _ := filepath.Glob(f.path + ".damaged-*Z")
	slices.Sort(old)
	for _, name := range old[:max(0, len(old)-maxAside)] {
		for _, suffix := range []string{"-wal", "-shm", ""} {
			_ = os.Remove(name + suffix)
		}
	}
	return to, nil
}
