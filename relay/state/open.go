package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// Open opens state that Init made. Errors are [ErrMissing] where nothing was ever
// made, [ErrInUse] where another relay has it open, [ErrUnavailable] where the
// files cannot be read, [ErrAway] beside it where PostgreSQL is out of reach, or a
// *[CorruptError].
func Open(ctx context.Context, opt Options) (*State, error) {
	return open(ctx, opt, newSchema(migrations()))
}

func open(ctx context.Context, opt Options, tables schema) (*State, error) {
	f := opt.files()
	there, err := f.found()
	if err != nil {
		return nil, err
	}
	if len(there) == 0 {
		return nil, missing(f)
	}
	lock, err := f.acquire()
	if err != nil {
		return nil, err
	}
	s := &State{opt: opt, files: f, engine: opt.engine(), lock: lock, turn: make(chan struct{}, 1), peersChanged: make(chan struct{}, 1)}
	if err := s.open(ctx, tables); err != nil {
		if s.db != nil {
			_ = s.db.Close()
		}
		_ = unlockFile(lock)
		return nil, err
	}
	opt.logger().Info("state opened", "dir", opt.Dir, "database", s.engine.name(), "instance", s.Instance(), "revision", s.Revision())
	return s, nil
}

func missing(f files) error {
	return &Error{
		kind: ErrMissing, code: "state-missing", message: fmt.Sprintf("%s holds no relay's state", f.dir),
		advice: "make it once with ebbgate relay init, which also joins other relays at their state.postgres; if this relay had state, its disk is not mounted, or state.dir names another directory",
	}
}

// acquire takes the lock against other relays.
func (f files) acquire() (*os.File, error) {
	lock, err := lockFile(f.lock)
	if errors.Is(err, errLocked) {
		return nil, &Error{
			kind: ErrInUse, code: "state-in-use", message: fmt.Sprintf("the state in %s is in use by another relay", f.dir),
			advice: "stop the other relay, or give this one a state directory of its own",
		}
	}
	if err != nil {
		return nil, unusable(f.lock, err)
	}
	return lock, nil
}

// unusable is a file that cannot be read or written.
func unusable(path string, err error) error {
	t := troubleOf(err)
	return &Error{kind: ErrUnavailable, code: "state-unavailable", message: path + " cannot be used", advice: t.advice, cause: err}
}

// found lists what there is of a state. A key that is bound to no instance does
// not count: an operator made it.
func (f files) found() (list []string, err error) {
	for _, path := range []string{f.database, f.database + "-journal", f.marker, f.staged} {
		there, err := exists(path)
		if err != nil {
			return nil, unusable(path, err)
		}
		if there {
			list = append(list, path)
		}
	}
	there, err := exists(f.key)
	if err != nil {
		return nil, unusable(f.key, err)
	}
	if there {
		raw, err := readFile(f.key)
		if err != nil {
			return nil, unusable(f.key, err)
		}
		if m, err := parseKey(raw); err != nil || m.instance != "" {
			list = append(list, f.key)
		}
	}
	return list, nil
}

// open reads and checks everything. The lock is ours.
func (s *State) open(ctx context.Context, tables schema) (err error) {
	if s.engine.shared() {
		err = s.openShared(ctx, tables)
	} else {
		err = s.openFiles(ctx, tables)
	}
	return s.refused(ctx, err)
}

func (s *State) openFiles(ctx context.Context, tables schema) error {
	if err := s.files.place(func(string) {}); err != nil {
		return err
	}
	if err := s.files.complete(s.files.database, s.files.marker, s.files.key); err != nil {
		return err
	}
	if err := s.readKeys(); err != nil {
		return err
	}
	if err := s.files.checkHeader(); err != nil {
		return err
	}
	return s.openTables(ctx, tables)
}

// openTables opens the database and reads it.
func (s *State) openTables(ctx context.Context, tables schema) (err error) {
	if s.db == nil {
		if s.db, err = s.engine.open(); err != nil {
			return unusable(s.engine.name(), err)
		}
	}
	pending, err := s.read(ctx, tables)
	if err == nil && pending {
		if err = tables.migrate(ctx, s.engine, s.db); err == nil {
			_, err = s.read(ctx, tables)
		}
	}
	return err
}

// complete refuses a state of which a file is missing.
func (f files) complete(all ...string) error {
	var gone []string
	for _, path := range all {
		there, err := exists(path)
		if err != nil {
			return unusable(path, err)
		}
		if !there {
			gone = append(gone, path)
		}
	}
	if len(gone) > 0 {
		return &CorruptError{Path: strings.Join(gone, " and "), Reason: "missing, while the rest of the state is there"}
	}
	return nil
}

// readKeys reads the key and the marker, which is sealed with it.
func (s *State) readKeys() error {
	master, err := s.files.readKey()
	if err != nil {
		return err
	}
	raw, err := readFile(s.files.marker)
	if err != nil {
		return unusable(s.files.marker, err)
	}
	instance, err := markerInstance(raw)
	if err != nil {
		return &CorruptError{Path: s.files.marker, Reason: err.Error()}
	}
	if master.instance != "" && master.instance != instance {
		return &CorruptError{Path: s.files.key, Reason: fmt.Sprintf("it is the key of instance %s, the marker is of %s", master.instance, instance)}
	}
	if s.keys, err = newKeyring(master.secret, instance); err != nil {
		return fmt.Errorf("state: derive keys: %w", err)
	}
	if s.mark, err = parseMarker(raw, s.keys); err != nil {
		return &CorruptError{Path: s.files.marker, Reason: err.Error()}
	}
	return nil
}

func (f files) readKey() (masterKey, error) {
	info, err := os.Stat(f.key)
	if err != nil {
		return masterKey{}, unusable(f.key, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 {
		return masterKey{}, &Error{
			kind: ErrInvalid, code: "key-file-exposed", message: fmt.Sprintf("every user of this machine can read or write %s", f.key),
			advice: "run chmod 600 " + f.key + ", and think about who may have copied it",
		}
	}
	raw, err := readFile(f.key)
	if err != nil {
		return masterKey{}, unusable(f.key, err)
	}
	m, err := parseKey(raw)
	if err != nil {
		return masterKey{}, &CorruptError{Path: f.key, Reason: err.Error()}
	}
	return m, nil
}

// checkHeader refuses what SQLite would take for an empty database, or open for
// reading only.
func (f files) checkHeader() error {
	file, err := os.Open(f.database)
	if err != nil {
		return unusable(f.database, err)
	}
	defer file.Close()
	header := make([]byte, 100)
	if _, err := io.ReadFull(file, header); errors.Is(err, io.EOF) {
		return &CorruptError{Path: f.database, Reason: "it is empty"}
	} else if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return unusable(f.database, err)
	}
	const title = "SQLite format 3\x00"
	if string(header[:len(title)]) != title || header[18] != 1 || header[19] != 1 {
		return &CorruptError{Path: f.database, Reason: "it is not a database of this program"}
	}
	return nil
}

// read checks the database, and against the marker, and makes it current.
func (s *State) read(ctx context.Context, tables schema) (pending bool, err error) {
	ctx, cancel := bounded(ctx, s.engine)
	defer cancel()
	pending, err = tables.check(ctx, s.engine, s.db)
	if err != nil {
		return false, err
	}
	var fresh *snapshot
	err = s.engine.read(ctx, s.db, func(from querier) (err error) {
		fresh, err = load(ctx, from, s.keys)
		return err
	})
	if err != nil {
		return false, err
	}
	if id := fmt.Sprint(fresh.instance.columns["id"]); id != s.mark.instance {
		return false, &damage{fmt.Sprintf("it is of instance %.64s, the marker of %s", id, s.mark.instance)}
	}
	if !s.mark.same(fresh) {
		return false, &damage{"its CA is not the one that the marker knows"}
	}
	for _, a := range fresh.authorities {
		if a.TrustDomain() != s.mark.instance {
			return false, &damage{"its CA is of another instance"}
		}
	}
	s.current.Store(fresh)
	return pending, nil
}

// refused makes what people read of a failed Open. A disk's database that fails
// in a way that is not known to pass is taken for damaged.
func (s *State) refused(ctx context.Context, err error) error {
	var newer *newerError
	var told interface {
		error
		Code() string
		Advice() string
	}
	switch t := s.trouble(err); {
	case err == nil:
		return nil
	case errors.As(err, &told):
		return err
	case errors.As(err, &newer):
		return &Error{
			kind: ErrInvalid, code: "state-newer", message: s.engine.name() + " was made by a newer ebbgate", cause: err,
			advice: "run the newer program, or restore a backup that this one made",
		}
	case ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return err
	case t.known && !t.damaged:
		e := unavailable("opening "+s.engine.name(), t.reason, t.advice, err)
		e.away = t.reason == postgresAway.reason
		return e
	default:
		return s.corrupt(t.reason, t.cause)
	}
}

// trouble classifies an error of the database.
func (s *State) trouble(err error) trouble { return troubleIn(s.engine, err) }

// corrupt is the refusal of a database that is damaged, or another one.
func (s *State) corrupt(reason string, cause error) *CorruptError {
	e := &CorruptError{Path: s.engine.name(), Reason: reason, Err: cause}
	if s.engine.shared() {
		e.advice = restoreShared
	}
	return e
}
