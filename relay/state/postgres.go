package state

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/ebbgate/ebbgate/config"
)

// Bounds of what is asked of PostgreSQL. A server that stands still, or a network
// that swallows everything, must not hold a change up for long; and a relay that
// vanished in the middle of a change must not hold up the others.
const (
	postgresPatience = 5 * time.Second
	postgresConnect  = 3 * time.Second
	postgresConns    = 4
)

// errSilent is a database that did not answer in time.
var errSilent = errors.New("no answer in time")

// postgresEngine keeps the tables in a database of PostgreSQL.
type postgresEngine struct{ at config.Postgres }

func (e postgresEngine) name() string { return e.at.String() }

func (e postgresEngine) shared() bool { return true }

func (e postgresEngine) patience() time.Duration { return postgresPatience }

func (e postgresEngine) dialect() goose.Dialect { return goose.DialectPostgres }

// open says how to connect. Statements are not prepared: a newer relay may change
// the tables meanwhile, and poolers between here and there may change the server.
func (e postgresEngine) open() (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(e.at.Reveal())
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = postgresConnect
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	for name, value := range map[string]string{
		"application_name":                    "ebbgate",
		"statement_timeout":                   milliseconds(postgresPatience),
		"lock_timeout":                        milliseconds(postgresPatience),
		"idle_in_transaction_session_timeout": milliseconds(2 * postgresPatience),
	} {
		if cfg.RuntimeParams[name] == "" {
			cfg.RuntimeParams[name] = value
		}
	}
	// A connection that the server has closed meanwhile is found out before it is used.
	ping := func(context.Context, stdlib.ShouldPingParams) bool { return true }
	db := stdlib.OpenDB(*cfg, stdlib.OptionBeforeConnect(e.password), stdlib.OptionShouldPing(ping))
	db.SetMaxOpenConns(postgresConns)
	db.SetMaxIdleConns(postgresConns)
	db.SetConnMaxIdleTime(time.Minute)
	return db, nil
}

// password reads the password's file anew for each connection: it may change.
func (e postgresEngine) password(_ context.Context, cfg *pgx.ConnConfig) error {
	if e.at.PasswordFile == "" {
		return nil
	}
	raw, err := readFile(e.at.PasswordFile)
	if err != nil {
		return err
	}
	cfg.Password = strings.TrimRight(string(raw), "\r\n")
	return nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// check asks whether the database is there at all; PostgreSQL keeps checksums.
func (e postgresEngine) check(ctx context.Context, db *sql.DB) error { return db.PingContext(ctx) }

// tables lists the columns of the tables that are the relay's.
func (e postgresEngine) tables(ctx context.Context, db *sql.DB) ([]string, error) {
	return readText(ctx, db, `SELECT table_name, column_name, upper(data_type), is_nullable FROM information_schema.columns
		WHERE table_schema = current_schema() AND table_name IN ('`+strings.Join(append(tables, presenceTables...), "', '")+`')
		ORDER BY table_name COLLATE "C", column_name COLLATE "C"`, 4)
}

func (e postgresEngine) model(ctx context.Context, fresh *sql.DB) ([]string, error) {
	return readText(ctx, fresh, `SELECT t.name, c.name, c.type, CASE c."notnull" WHEN 0 THEN 'YES' ELSE 'NO' END
		FROM sqlite_schema t, pragma_table_info(t.name) c
		WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE 'goose%' ORDER BY t.name, c.name`, 4)
}

// read reads in one transaction, which sees one state.
func (e postgresEngine) read(ctx context.Context, db *sql.DB, from func(querier) error) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it changed nothing
	return from(tx)
}

// channel is what relays of an instance listen on.
func channel(instance string) string { return "ebbgate_" + instance }

func (e postgresEngine) announce(ctx context.Context, tx execer, instance string, revision int64) error {
	_, err := tx.ExecContext(ctx, "SELECT pg_notify($1, $2)", channel(instance), strconv.FormatInt(revision, 10))
	return err
}

// guard takes an advisory lock, on a connection of its own.
func (e postgresEngine) guard(ctx context.Context, db *sql.DB) (func(), error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte("ebbgate state"))
	key := int64(binary.BigEndian.Uint64(sum[:8]))
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), postgresPatience)
		defer cancel()
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", key); err != nil {
			discard(conn)
		}
		_ = conn.Close()
	}, nil
}

// postgresTrouble is what an error of PostgreSQL means to people, by its
// SQLSTATE.
func postgresTrouble(code string) trouble {
	class := code
	if len(class) > 2 {
		class = code[:2]
	}
	switch {
	case code == "53100":
		return trouble{reason: "the disk of PostgreSQL is full", advice: "make room on the disk of the database server and try again" + goesOn, known: true}
	case code == "25006":
		return trouble{reason: "PostgreSQL takes no changes: it is read-only", advice: "is this address a replica's? Name the primary in state.postgres, or promote the replica" + goesOn, known: true}
	case class == "28":
		return trouble{reason: "PostgreSQL refuses the relay's user or password", advice: "look at the user in state.postgres, at state.postgres_password_file and at the server's pg_hba.conf" + goesOn, known: true}
	case class == "3D":
		return trouble{reason: "PostgreSQL has no such database", advice: "create the database that state.postgres names, or correct the name", known: true}
	case code == "42501":
		return trouble{reason: "PostgreSQL forbids it", advice: "make the relay's user owner of its database, or of its schema" + goesOn, known: true}
	case code == "55P03", class == "40":
		return trouble{reason: "another program has locked the tables", advice: "end the program that holds them, perhaps an administrator's session, and try again" + goesOn, known: true}
	case class == "XX" && code != "XX000":
		return trouble{reason: "PostgreSQL says that its data is damaged", damaged: true, known: true}
	case class == "0A":
		return trouble{reason: "the database does not know what was asked of it", advice: "use PostgreSQL 13 or later", known: true, unsupported: true}
	case class == "42": // undefined tables and columns
		return trouble{reason: "its tables are not the relay's", damaged: true, known: true}
	}
	return postgresAway
}

// postgresAway is PostgreSQL out of reach.
var postgresAway = trouble{
	reason: "PostgreSQL cannot be reached, or does not answer", known: true,
	advice: "look at the database server, and at the network between it and the relay" + goesOn,
}

// passwordFileError tells a password's file that cannot be read.
func passwordFileError(at config.Postgres) error {
	if at.PasswordFile == "" {
		return nil
	}
	if _, err := os.Stat(at.PasswordFile); err != nil {
		return &Error{
			kind: ErrUnavailable, code: "state-unavailable", message: fmt.Sprintf("%s cannot be used", at.PasswordFile), cause: err,
			advice: "state.postgres_password_file names the file with the password of the relay's user at PostgreSQL",
		}
	}
	return nil
}
