package state

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ebbgate/ebbgate/certs"
)

// Init makes state: an instance with a random id, tenant default, and the first
// generation of the CA. It is an [ErrExists] if anything of a state is there
// already. Where it was cut off, the next Init or Open finishes it, or nothing
// was made.
//
// A key file that exists is used if it is not bound to an instance: 32 bytes in
// base64 or hexadecimal digits, as "openssl rand -base64 32" makes them.
func Init(ctx context.Context, opt Options) error {
	return initializer{opt: opt, files: opt.files(), step: func(string) {}}.run(ctx)
}

// initializer makes state in a directory of its own, names it as complete, and
// then moves its files to their places. So whatever it leaves behind when it is
// killed is either worthless or goes on from where it was.
type initializer struct {
	opt   Options
	files files
	step  func(done string) // for tests
}

func (i initializer) run(ctx context.Context) error {
	if err := os.MkdirAll(i.files.dir, 0o700); err != nil {
		return unusable(i.files.dir, err)
	}
	lock, err := i.files.acquire()
	if err != nil {
		return err
	}
	defer func() { _ = unlockFile(lock) }()
	i.step("lock")
	if i.opt.engine().shared() {
		return i.failed(i.runShared(ctx))
	}
	there, err := exists(i.files.staged)
	if err != nil {
		return unusable(i.files.staged, err)
	}
	if there {
		return i.files.place(i.step)
	}
	if err := i.refuse(); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(filepath.Clean(i.files.dir))); err != nil {
		i.opt.logger().Debug("state: the directory above was not synced", "error", err)
	}
	if err := i.stage(ctx); err != nil {
		_ = os.RemoveAll(i.files.staging)
		return i.failed(err)
	}
	return i.files.place(i.step)
}

// refuse is an ErrExists if there is anything.
func (i initializer) refuse() error {
	there, err := i.files.found()
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return i.refusal(there)
	}
	if dir, err := os.Stat(filepath.Dir(i.files.key)); err != nil || !dir.IsDir() {
		return &Error{
			kind: ErrInvalid, code: "key-file-invalid", message: fmt.Sprintf("%s is no directory for the key file", filepath.Dir(i.files.key)),
			advice: "make the directory, or leave state.key_file empty", cause: err,
		}
	}
	return nil
}

func (i initializer) refusal(there []string) *Error {
	return &Error{
		kind: ErrExists, code: "state-exists", message: "state was made before: there is " + strings.Join(there, " and "),
		advice: "ebbgate relay run opens it; to begin anew with another CA, which ends every key, token and node, move all of it away",
	}
}

func (i initializer) failed(err error) error {
	if err == nil {
		return nil
	}
	var told interface {
		error
		Code() string
	}
	if errors.As(err, &told) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	t := troubleIn(i.opt.engine(), err)
	if t.damaged && i.opt.engine().shared() {
		return &CorruptError{Path: i.opt.engine().name(), Reason: t.reason, Err: t.cause, advice: restoreShared}
	}
	e := unavailable("making state in "+i.files.dir, t.reason, t.advice, err)
	e.away = t.reason == postgresAway.reason
	return e
}

// stage makes the files. Its end is their directory's name.
func (i initializer) stage(ctx context.Context) error {
	dir := i.files.staging
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	i.step("directory")
	instance := newID()
	master, err := i.key(instance)
	if err != nil {
		return err
	}
	keys, err := newKeyring(master.secret, instance)
	if err != nil {
		return err
	}
	i.step("key")
	made, err := i.makeDatabase(ctx, filepath.Join(dir, nameDatabase), instance, keys)
	if err != nil {
		return err
	}
	i.step("database")
	if err := writeFile(filepath.Join(dir, nameMarker), markerOf(instance, made.authorities).encode(keys)); err != nil {
		return err
	}
	i.step("marker")
	if err := syncDir(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, i.files.staged); err != nil {
		return err
	}
	i.step("complete")
	return syncDir(i.files.dir)
}

// key makes the key, or takes the one that an operator made.
func (i initializer) key(instance string) (masterKey, error) {
	there, err := exists(i.files.key)
	if err != nil {
		return masterKey{}, err
	}
	if there {
		return i.files.readKey()
	}
	m := masterKey{secret: certs.NewSecret(), instance: instance}
	return m, writeFile(filepath.Join(i.files.staging, nameKey), m.encode())
}

// makeDatabase makes the tables and the first rows.
func (i initializer) makeDatabase(ctx context.Context, path, instance string, keys *keyring) (_ *snapshot, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // SQLite would let others read
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db, err := openDatabase(path, "rw")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := newSchema(migrations()).migrate(ctx, sqliteEngine{path}, db); err != nil {
		return nil, err
	}
	i.step("tables")
	rows, err := i.firstRows(instance, keys)
	if err != nil {
		return nil, err
	}
	if err := insertAll(ctx, db, rows); err != nil {
		return nil, err
	}
	return load(ctx, db, keys)
}

func insertAll(ctx context.Context, db *sql.DB, rows []row) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after Commit
	for _, r := range rows {
		if err := r.insert(ctx, tx); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// firstRows are the instance, the CA and the default tenant.
func (i initializer) firstRows(instance string, keys *keyring) ([]row, error) {
	now := i.opt.now()
	ca, err := certs.NewAuthority(instance, 1, now)
	if err != nil {
		return nil, err
	}
	key, err := ca.MarshalKey()
	if err != nil {
		return nil, err
	}
	authority := row{table: tableAuthorities, columns: map[string]any{
		"generation": int64(1), "phase": phaseActive, "certificate": encodeBytes(ca.Certificate().Raw),
		"secret": keys.encrypt(key, authorityPlace(1)), "created": now.UnixMicro(),
	}}.sealed(keys, 1)
	tenant := row{table: tableTenants, columns: map[string]any{
		"name": DefaultTenant, "created": now.UnixMicro(),
	}}.sealed(keys, 1)
	head := row{table: tableInstance, columns: map[string]any{
		"id": instance, "created": now.UnixMicro(), "digest": authority.mac.xor(tenant.mac).String(),
	}}.sealed(keys, 1)
	return []row{head, authority, tenant}, nil
}

// phaseActive is of the CA generation that signs.
const phaseActive = "active"

// place moves the files of a complete Init, if there is one, to their places. It
// goes on where another was cut off. The marker comes last.
func (f files) place(step func(string)) error {
	there, err := exists(f.staged)
	if err != nil {
		return unusable(f.staged, err)
	}
	if !there {
		return nil
	}
	moves := []struct{ from, to string }{
		{filepath.Join(f.staged, nameKey), f.key},
		{filepath.Join(f.staged, nameDatabase), f.database},
		{filepath.Join(f.staged, nameMarker), f.marker},
	}
	for _, m := range moves {
		if err := f.checkMove(m.from, m.to); err != nil {
			return err
		}
	}
	for _, m := range moves {
		if err := f.move(m.from, m.to); err != nil {
			return err
		}
		step("placed " + filepath.Base(m.from))
	}
	if err := syncDir(f.dir); err != nil {
		return unusable(f.dir, err)
	}
	if err := os.Remove(f.staged); err != nil {
		return unusable(f.staged, err)
	}
	step("placed all")
	if err := syncDir(f.dir); err != nil {
		return unusable(f.dir, err)
	}
	return nil
}

// checkMove refuses to move a file to where there is another, unless it is the
// key and a copy.
func (f files) checkMove(from, to string) error {
	staged, err := exists(from)
	if err != nil {
		return unusable(from, err)
	}
	taken, err := exists(to)
	if err != nil {
		return unusable(to, err)
	}
	if !staged || !taken {
		return nil
	}
	if to == f.key && !f.ownKey {
		a, err := readFile(from)
		if err != nil {
			return unusable(from, err)
		}
		b, err := readFile(to)
		if err != nil {
			return unusable(to, err)
		}
		if bytes.Equal(a, b) {
			return nil
		}
	}
	return &CorruptError{
		Path: f.staged, Reason: fmt.Sprintf("an init was cut off before it was done, and there is another %s", to),
		advice: fmt.Sprintf("nothing was changed; if %s belongs to state that you want to keep, move %s away, else move %s away; then start the relay again", to, f.staged, to),
	}
}

// move moves a file to where nothing is, unless that was done.
func (f files) move(from, to string) error {
	if staged, err := exists(from); err != nil || !staged {
		return err
	}
	if to != f.key || f.ownKey {
		if err := os.Rename(from, to); err != nil {
			return unusable(to, err)
		}
		return nil
	}
	// Perhaps another disk.
	key, err := readFile(from)
	if err != nil {
		return unusable(from, err)
	}
	if err := writeFile(to, key); err != nil {
		return unusable(to, err)
	}
	if err := os.Remove(from); err != nil {
		return unusable(from, err)
	}
	return nil
}
