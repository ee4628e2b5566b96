package state

import (
	"context"
	"database/sql"
	"time"

	"github.com/pressly/goose/v3"
)

// engine is what differs between the databases that the tables may be in: a file
// of SQLite beside the marker, of one relay, or a database of PostgreSQL, which
// several relays share. Tables, rows, seals and changes are the same in both.
type engine interface {
	// name is what people read: a path, or an address without its password.
	name() string
	// shared tells whether other relays change the database, too.
	shared() bool
	// patience bounds what is asked of the database at once; 0: a disk answers or
	// fails by itself.
	patience() time.Duration

	dialect() goose.Dialect
	// open makes no connection yet.
	open() (*sql.DB, error)
	// check is the database's own.
	check(ctx context.Context, db *sql.DB) error
	// tables lists what there is, model what there should be, taken from a SQLite
	// database in which the migrations were made.
	tables(ctx context.Context, db *sql.DB) ([]string, error)
	model(ctx context.Context, fresh *sql.DB) ([]string, error)

	// read reads from one state of the database.
	read(ctx context.Context, db *sql.DB, from func(querier) error) error
	// announce tells other relays of a change, once it is committed.
	announce(ctx context.Context, tx execer, instance string, revision int64) error
	// guard keeps other relays from making tables and state until release.
	guard(ctx context.Context, db *sql.DB) (release func(), err error)
}

// engine is where the state's tables are.
func (o Options) engine() engine {
	if o.Postgres.Set() {
		return postgresEngine{o.Postgres}
	}
	return sqliteEngine{o.files().database}
}

// bounded bounds what is asked of the database at once.
func bounded(ctx context.Context, e engine) (context.Context, context.CancelFunc) {
	if e.patience() == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, e.patience())
}
