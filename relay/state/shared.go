package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// What follows makes, joins and opens a database that several relays share. Each
// relay has a directory of its own with the key, which is the same for all, and
// the marker. One Init makes the instance; Init in the directories of other
// relays finds it, proves with the key that it is theirs, and writes their
// markers. It holds the database's guard meanwhile, so that only one makes it.

// runShared makes an instance, or joins the one that there is.
func (i initializer) runShared(ctx context.Context) error {
	bound, cancel := context.WithTimeout(ctx, 6*i.opt.engine().patience())
	defer cancel()
	return silent(ctx, i.makeShared(bound))
}

// silent tells a time limit of this package from the caller's.
func silent(caller context.Context, err error) error {
	if caller.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return errSilent
	}
	return err
}

func (i initializer) makeShared(ctx context.Context) (err error) {
	e := i.opt.engine()
	if err := i.refuseFiles(); err != nil {
		return err
	}
	db, err := e.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := passwordFileError(i.opt.Postgres); err != nil {
		return err
	}
	release, err := e.guard(ctx, db)
	if err != nil {
		return err
	}
	defer release()
	if err := newSchema(migrations()).migrate(ctx, e, db); err != nil {
		return err
	}
	i.step("tables")
	there, err := instanceIn(ctx, db)
	if err != nil {
		return err
	}
	if there != "" {
		return i.join(ctx, e, db, there)
	}
	return i.found(ctx, e, db)
}

// refuseFiles is an ErrExists if this directory has a state. What an Init left
// that was cut off is for later.
func (i initializer) refuseFiles() error {
	f := i.files
	for _, path := range []string{f.database, f.marker} {
		there, err := exists(path)
		if err != nil {
			return unusable(path, err)
		}
		if !there {
			continue
		}
		e := i.refusal([]string{path})
		if path == f.database {
			e.advice = "this relay has state in SQLite, which is not moved to PostgreSQL: leave state.postgres empty, or begin anew in another state.dir, which ends every key, token and node"
		}
		return e
	}
	return nil
}

// instanceIn is the id of the database's instance; empty: there is none.
func instanceIn(ctx context.Context, db *sql.DB) (string, error) {
	ids, err := readText(ctx, db, "SELECT id FROM "+tableInstance, 1)
	switch {
	case err != nil || len(ids) == 0:
		return "", err
	case len(ids) > 1 || !validID(ids[0]):
		return "", &damage{"it has no one instance"}
	}
	return ids[0], nil
}

// join writes the marker of a relay that comes to the others.
func (i initializer) join(ctx context.Context, e engine, db *sql.DB, instance string) error {
	if err := i.placeKey(instance); err != nil {
		return err
	}
	there, err := exists(i.files.key)
	if err != nil {
		return err
	}
	if !there {
		return &Error{
			kind: ErrExists, code: "state-exists", message: fmt.Sprintf("%s holds instance %s of other relays, and there is no %s", e.name(), instance, i.files.key),
			advice: "to join them, copy the file state.key of one of them there, mode 0600; to begin anew, name an empty database",
		}
	}
	master, err := i.files.readKey()
	if err != nil {
		return err
	}
	other := &CorruptError{
		Path: i.files.key, Reason: fmt.Sprintf("it is not the key of instance %s, which %s holds", instance, e.name()),
		advice: "nothing was changed; copy the file state.key of the relay that made the instance, or name another database",
	}
	if master.instance != "" && master.instance != instance {
		return other
	}
	keys, err := newKeyring(master.secret, instance)
	if err != nil {
		return err
	}
	var all *snapshot
	err = e.read(ctx, db, func(from querier) (err error) {
		all, err = load(ctx, from, keys)
		return err
	})
	if isDamage(err) && master.instance == "" {
		other.Err = err
		return other
	}
	if err != nil {
		return err
	}
	if err := writeFile(i.files.marker, markerOf(instance, all.authorities).encode(keys)); err != nil {
		return err
	}
	i.opt.logger().Info("the relay belongs to an instance", "instance", instance, "database", e.name(), "revision", all.instance.revision())
	return nil
}

// found makes an instance in an empty database. The key is on the disk before
// anything is in the database that needs it.
func (i initializer) found(ctx context.Context, e engine, db *sql.DB) error {
	// What an Init left here that was cut off never came into the database.
	for _, dir := range []string{i.files.staged, i.files.staging} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	instance := newID()
	if err := os.Mkdir(i.files.staging, 0o700); err != nil {
		return err
	}
	i.step("directory")
	master, err := i.key(instance)
	if err != nil {
		return err
	}
	if master.instance != "" && master.instance != instance {
		return &CorruptError{
			Path: i.files.key, Reason: fmt.Sprintf("it is the key of instance %s, and %s is empty", master.instance, e.name()), advice: restoreShared,
		}
	}
	keys, err := newKeyring(master.secret, instance)
	if err != nil {
		return err
	}
	if err := syncDir(i.files.staging); err != nil {
		return err
	}
	if err := os.Rename(i.files.staging, i.files.staged); err != nil {
		return err
	}
	if err := syncDir(i.files.dir); err != nil {
		return err
	}
	i.step("key")
	rows, err := i.firstRows(instance, keys)
	if err != nil {
		return err
	}
	if err := insertAll(ctx, db, rows); err != nil {
		return err
	}
	i.step("database")
	return i.join(ctx, e, db, instance)
}

// placeKey moves the key that an Init made to its place, where it is of the
// database's instance; an Init was cut off between making that and this.
func (i initializer) placeKey(instance string) error {
	there, err := exists(i.files.staged)
	if err != nil || !there {
		return err
	}
	staged := i.files
	staged.key = filepath.Join(i.files.staged, nameKey)
	if ours, err := exists(staged.key); err != nil {
		return err
	} else if ours {
		m, err := staged.readKey()
		if err != nil {
			return err
		}
		if m.instance == instance {
			if err := i.files.checkMove(staged.key, i.files.key); err != nil {
				return err
			}
			if err := i.files.move(staged.key, i.files.key); err != nil {
				return err
			}
			i.step("placed " + nameKey)
		}
	}
	return os.RemoveAll(i.files.staged)
}

// openShared opens a database that other relays may have open, too.
func (s *State) openShared(ctx context.Context, tables schema) (err error) {
	if err := passwordFileError(s.opt.Postgres); err != nil {
		return err
	}
	if there, err := exists(s.files.marker); err != nil || !there {
		return errors.Join(err, missing(s.files))
	}
	if err := s.files.complete(s.files.key); err != nil {
		return err
	}
	if err := s.readKeys(); err != nil {
		return err
	}
	if there, err := exists(s.files.database); err != nil || there {
		return errors.Join(err, &CorruptError{
			Path: s.files.database, Reason: "this relay has state in SQLite, and state.postgres names another",
			advice: "nothing was changed; leave state.postgres empty, or move state.db away if it is not needed",
		})
	}
	if s.db, err = s.engine.open(); err != nil {
		return err
	}
	guarding, cancel := bounded(ctx, s.engine)
	release, err := s.engine.guard(guarding, s.db)
	cancel()
	if err != nil {
		return err
	}
	defer release()
	return s.openTables(ctx, tables)
}
