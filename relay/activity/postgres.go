package activity

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/ebbgate/ebbgate/config"
)

// Bounds of what is asked of PostgreSQL.
const (
	postgresPatience = 30 * time.Second
	postgresConnect  = 3 * time.Second
)

// postgres is a schema of its own in the database that the relays share: the
// schema of their state with _activity after its name, ebbgate_activity where
// that is public.
type postgres struct {
	at     config.Postgres
	schema string // as it was found
}

func (p *postgres) name() string { return p.at.String() }

// open makes the schema and its tables where they are missing.
func (p *postgres) open(ctx context.Context) (*database, error) {
	plain, err := p.connect("", 1)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	var schema *string
	if err := plain.QueryRowContext(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return nil, err
	}
	switch {
	case schema == nil:
		return nil, errors.New("its search_path names no schema")
	case *schema == "public":
		p.schema = "ebbgate_activity"
	default:
		p.schema = *schema + "_activity"
	}
	if err := p.make(ctx, plain); err != nil {
		return nil, err
	}
	d := &database{}
	if d.write, err = p.connect(p.schema, 1); err != nil {
		return nil, err
	}
	if d.read, err = p.connect(p.schema, readers); err != nil {
		return nil, errors.Join(err, d.write.Close())
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err == nil {
		var migrating *sql.DB // the lock has a connection of its own
		if migrating, err = p.connect(p.schema, 2); err == nil {
			err = errors.Join(migrate(ctx, goose.DialectPostgres, migrating, goose.WithSessionLocker(locker)), migrating.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// make makes the schema. Another relay may be about to, as well.
func (p *postgres) make(ctx context.Context, db *sql.DB) error {
	var there bool
	if err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM information_schema.schemata WHERE schema_name = $1)", p.schema).Scan(&there); err != nil || there {
		return err
	}
	_, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{p.schema}.Sanitize())
	if code := sqlState(err); code == "23505" || code == "42P06" { // it did
		return nil
	}
	return err
}

func (p *postgres) connect(schema string, most int) (*sql.DB, error) {
	cfg, err := pgx.ParseConfig(p.at.Reveal())
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = postgresConnect
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	milliseconds := strconv.FormatInt(postgresPatience.Milliseconds(), 10)
	for name, value := range map[string]string{
		"application_name": "ebbgate activity", "statement_timeout": milliseconds, "lock_timeout": milliseconds,
		"idle_in_transaction_session_timeout": milliseconds,
	} {
		if cfg.RuntimeParams[name] == "" {
			cfg.RuntimeParams[name] = value
		}
	}
	if schema != "" {
		cfg.RuntimeParams["search_path"] = pgx.Identifier{schema}.Sanitize()
	}
	db := stdlib.OpenDB(*cfg, stdlib.OptionBeforeConnect(func(_ context.Context, cfg *pgx.ConnConfig) error {
		if p.at.PasswordFile == "" {
			return nil
		}
		raw, err := os.ReadFile(p.at.PasswordFile)
		cfg.Password = strings.TrimRight(string(raw), "\r\n")
		return err
	}))
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	db.SetConnMaxIdleTime(time.Minute)
	return db, nil
}

// sqlState is PostgreSQL's code of an error; empty: it has none.
func sqlState(err error) string {
	var failed *pgconn.PgError
	if !errors.As(err, &failed) {
		return ""
	}
	return failed.Code
}

// gone is for files.
func (*postgres) gone() bool { return false }

// damaged is for files: what PostgreSQL holds, its administrator mends.
func (*postgres) damaged(error) bool { return false }

func (*postgres) aside(time.Time) (string, error) { return "", errors.ErrUnsupported }

func (*postgres) shared() bool { return true }
