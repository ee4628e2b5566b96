package state

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// trouble is what a failure of the disk or the database means to people.
type trouble struct {
	reason  string
	advice  string
	damaged bool  // else it may pass
	known   bool  // else the reason is a guess
	cause   error // nil where the reason says it all

	unsupported bool // the database does not know what was asked of it
}

const goesOn = "; the relay goes on meanwhile and needs no restart"

var (
	diskFull   = trouble{reason: "the disk is full", advice: "make room on the disk of the state directory and try again" + goesOn, known: true}
	locked     = trouble{reason: "another program has locked the database", advice: "end the program that holds state.db, perhaps a backup, and try again" + goesOn, known: true}
	unwritable = trouble{reason: "the state directory cannot be read and written", advice: "give the relay's user the state directory and its files, and see that its disk is not mounted read-only" + goesOn, known: true}
	diskFailed = trouble{reason: "the disk failed", advice: "look at the disk of the state directory and at the kernel's log" + goesOn, known: true}
	unknown    = trouble{reason: "the database failed", advice: "look at the relay's log and at the disk of the state directory, and try again" + goesOn}
	broken     = trouble{reason: "the database is damaged", damaged: true, known: true}
)

// troubleOf classifies an error.
func troubleOf(err error) trouble {
	t := classify(err)
	if t.cause == nil && !isDamage(err) {
		t.cause = err
	}
	return t
}

// troubleIn classifies an error of a database. What is not known of PostgreSQL is
// taken for a network that passes.
func troubleIn(e engine, err error) trouble {
	t := troubleOf(err)
	if !t.known && e.shared() {
		away := postgresAway
		away.cause = err
		return away
	}
	return t
}

func isDamage(err error) bool {
	var d *damage
	return errors.As(err, &d)
}

func classify(err error) trouble {
	var found *damage
	var sqliteErr *sqlite.Error
	var postgresErr *pgconn.PgError
	switch {
	case errors.As(err, &found):
		return trouble{reason: found.reason, damaged: true, known: true}
	case errors.As(err, &sqliteErr):
		return classifySQLite(sqliteErr.Code())
	case errors.As(err, &postgresErr):
		return postgresTrouble(postgresErr.Code)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return diskFull
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return unwritable
	case errors.Is(err, syscall.EIO):
		return diskFailed
	}
	return unknown
}

// classifySQLite goes by the primary result code.
func classifySQLite(code int) trouble {
	switch code & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT:
		return broken
	case sqlite3.SQLITE_FULL:
		return diskFull
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL:
		return locked
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN:
		return unwritable
	case sqlite3.SQLITE_IOERR:
		return diskFailed
	}
	return unknown
}
