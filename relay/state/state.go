package state

import (
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
)

// Options say where the state is.
type Options struct {
	Dir      string           // made by Init where it is missing
	KeyFile  string           // default: state.key in Dir
	Postgres config.Postgres  // where the tables are, if they are not in Dir
	Logger   *slog.Logger     // nil discards
	Now      func() time.Time // nil is time.Now
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// now is cut to what the database keeps.
func (o Options) now() time.Time {
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	return now().UTC().Truncate(time.Microsecond)
}

// State is the open state of a relay. It is safe for concurrent use. What it
// returns is the caller's to read, not to change.
type State struct {
	// static after construction
	opt    Options
	files  files
	engine engine
	keys   *keyring
	mark   marker
	db     *sql.DB
	lock   *os.File

	current atomic.Pointer[snapshot]
	away    atomic.Pointer[absence] // why the shared database cannot be followed; nil: it can

	peersChanged chan struct{} // has room for one; other relays told of themselves

	// turn has one slot: who fills it changes the state. It is no mutex because
	// it is held while the disk is written; only changes ever wait for it.
	turn chan struct{}
	// owned by the turn's holder
	stale    bool // the database may not be what current says
	closed   bool
	followed time.Time // when current was found to be the database's
	ended    []JobEnd  // by other relays, not yet told
}

// Close waits for a change that is under way and closes the database. Reads
// still answer afterwards, changes are an [ErrUnavailable].
func (s *State) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.db.Close(), unlockFile(s.lock))
}

// Instance is the instance's id, which is the trust domain of its identities.
func (s *State) Instance() string {
	id, _ := s.current.Load().instance.columns["id"].(string)
	return id
}

// Revision grows by one with each change.
func (s *State) Revision() int64 { return s.current.Load().instance.revision() }

// Authorities are the generations of the CA, oldest first; the last one signs.
func (s *State) Authorities() []*certs.Authority {
	var list []*certs.Authority
	for _, a := range s.current.Load().authorities {
		list = append(list, a.Authority)
	}
	return list
}
