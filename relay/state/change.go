package state

import (
	"context"
	"database/sql/driver"
	"errors"
)

// edit is one row of a change: what it was, unless it is new, and what it becomes.
type edit struct {
	old *row
	new row
}

func insertion(table string, columns map[string]any) edit {
	return edit{new: row{table: table, columns: columns}}
}

func update(old row, columns map[string]any) edit {
	return edit{old: &old, new: old.with(columns)}
}

// attempts bounds how often a change is planned again because the database was
// changed meanwhile.
const attempts = 3

// change makes one change: plan looks at the newest snapshot and says what to
// edit; an error, or no edits, leaves everything as it is. Only one change is made
// at a time; readers wait for none. What plan found stays true until the change
// is made, for the revision is compared and set with it.
func (s *State) change(ctx context.Context, what string, plan func(*snapshot) ([]edit, error)) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here the change is made whole or fails on its own. An interrupted
	// statement would leave the question which.
	ctx = context.WithoutCancel(ctx)
	if s.closed {
		return unavailable(what, "the relay is stopping", "try again when the relay is back", nil)
	}
	var err error
	for range attempts {
		if err = s.refresh(ctx); err != nil {
			break
		}
		var edits []edit
		if edits, err = plan(s.current.Load()); err != nil {
			return err
		}
		if len(edits) == 0 {
			return nil
		}
		if err = s.commit(ctx, edits); err == nil {
			return nil
		}
		// Whether it was written is known only when it is read again: the
		// journal may be gone while the directory was not synced.
		s.stale = true
		if !errors.Is(err, errConflict) {
			break
		}
	}
	return s.failed(what, err)
}

// refresh reads the database again after a change that failed. The turn is ours.
func (s *State) refresh(ctx context.Context) error {
	if !s.stale {
		return nil
	}
	fresh, err := load(ctx, s.db, s.keys)
	if err != nil {
		return err
	}
	if fresh.instance.columns["id"] != s.Instance() {
		return &damage{"it is of another instance"}
	}
	s.current.Store(fresh)
	s.stale = false
	return nil
}

// commit writes the edits in one transaction and lets readers see them. The turn
// is ours.
func (s *State) commit(ctx context.Context, edits []edit) (err error) {
	now := s.current.Load()
	revision := now.instance.revision() + 1
	sum, err := parseSeal(now.instance.columns["digest"].(string))
	if err != nil {
		return err
	}
	var rows []row
	for i := range edits {
		edits[i].new = edits[i].new.sealed(s.keys, revision)
		sum = sum.xor(edits[i].new.mac)
		if edits[i].old != nil {
			sum = sum.xor(edits[i].old.mac)
		}
		rows = append(rows, edits[i].new)
	}
	instance := now.instance.with(map[string]any{"digest": sum.String()}).sealed(s.keys, revision)
	next, err := now.with(s.keys, append(rows, instance))
	if err != nil {
		return err
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // the next change begins with a fresh connection
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
		_ = conn.Close()
	}()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after Commit
	if err := instance.update(ctx, tx, now.instance); err != nil {
		return err
	}
	for _, e := range edits {
		if e.old == nil {
			err = e.new.insert(ctx, tx)
		} else {
			err = e.new.update(ctx, tx, *e.old)
		}
		if err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.current.Store(next)
	return nil
}

// failed is the error of a change that was not made.
func (s *State) failed(what string, err error) error {
	if errors.Is(err, errConflict) {
		return unavailable(what, "another program changes the database at the same time", "end the program that holds state.db; try again", err)
	}
	if t := troubleOf(err); t.damaged {
		return &CorruptError{Path: s.files.database, Reason: t.reason, Err: t.cause}
	} else {
		return unavailable(what, t.reason, t.advice, err)
	}
}

func unavailable(what, reason, advice string, cause error) *Error {
	return &Error{kind: ErrUnavailable, code: "state-unavailable", message: what + " was not done: " + reason, advice: advice, cause: cause}
}
