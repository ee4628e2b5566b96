package activity

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/config"
)

const (
	// retryFirst and retryMost are the pauses between attempts of a database that
	// fails.
	retryFirst = 500 * time.Millisecond
	retryMost  = 5 * time.Second
	// pruneEvery is how often old records are looked for.
	pruneEvery = time.Minute
	// closeTime bounds the last write.
	closeTime = 5 * time.Second
)

// DefaultKeep is how long records are kept, MaxRecords how many: of each table,
// the oldest go first.
const (
	DefaultKeep = 90 * 24 * time.Hour
	MaxRecords  = 2_000_000
)

// Config is what a [Recorder] needs. It is read once.
type Config struct {
	// Path is the SQLite database's; it is made where it is missing.
	Path string
	// Postgres is where the record is instead, where it is set.
	Postgres config.Postgres
	// Keep is how long records are kept; 0: DefaultKeep.
	Keep time.Duration
	// Registry takes the metrics; nil: nobody asks.
	Registry prometheus.Registerer
	// Logger takes what goes wrong; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

func (c Config) engine() engine {
	if c.Postgres.Set() {
		return &postgres{at: c.Postgres}
	}
	return &file{path: c.Path}
}

// Recorder is the activity record.
type Recorder struct {
	// static after construction
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	engine  engine
	most    int64 // records of each table
	wake    chan struct{}

	// owned by Run
	records records          // how many there are
	ids     map[names]string // of runs that were written lately

	mu sync.Mutex
	// guarded by mu
	own     []own         // this process' own halves, oldest first
	queue   []entry       // what others reported, oldest first
	waiting int           // halves in both
	refused refused       // dials
	closing bool          // nothing waits for anything any more
	db      *database     // nil while there is none
	opened  chan struct{} // closed while db is there or trouble is; a new one then takes its place
	trouble error         // why there is none, or why the last write failed
	broken  error         // a reading found damage
	lost    int           // halves that were dropped since the log last said so
	told    time.Time     // when it did
}

// New makes a recorder; it does no I/O.
func New(cfg Config) *Recorder {
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Recorder{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registry), engine: cfg.engine(), most: MaxRecords,
		wake: make(chan struct{}, 1), opened: make(chan struct{}),
	}
}

// Note takes a half of this process' own. It never waits; what is too much is
// dropped, counted and logged.
func (r *Recorder) Note(h Half) {
	r.mu.Lock()
	full := !r.fitsLocked(1)
	if !full {
		r.own = append(r.own, own{h, time.Now()})
		if n := len(r.own); n == 1 || n == maxHeld {
			r.rouse()
		}
	}
	count := 0
	if full {
		r.lost++
		if now := r.cfg.Now(); now.Sub(r.told) > time.Minute {
			count, r.lost, r.told = r.lost, 0, now
		}
	}
	r.mu.Unlock()
	if full {
		r.metrics.halves.WithLabelValues(dropped).Inc()
	}
	if count > 0 {
		r.log.Error("ends of streams are missing in the activity record: its database does not take them", "dropped", count)
	}
}

// Record takes halves and returns when they are on the disk. Its errors are
// *[Error]s, or ctx's; the same halves may be recorded again.
func (r *Recorder) Record(ctx context.Context, halves []Half) error {
	if len(halves) == 0 {
		return nil
	}
	e := entry{halves: halves, done: make(chan error, 1), since: time.Now()}
	r.mu.Lock()
	trouble := r.trouble
	pushed := trouble == nil && r.fitsLocked(len(halves))
	if pushed {
		r.queue = append(r.queue, e)
		r.rouse()
	}
	r.mu.Unlock()
	switch {
	case trouble != nil:
		return unavailable(trouble)
	case !pushed:
		return busy()
	}
	select {
	case err := <-e.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run opens the database and writes until ctx ends. Whatever fails is tried
// again.
func (r *Recorder) Run(ctx context.Context) {
	defer r.close()
	pause := retryFirst
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	for ctx.Err() == nil {
		err := r.step(ctx, prune.C)
		if err == nil || ctx.Err() != nil {
			pause = retryFirst
			continue
		}
		r.sleep(ctx, pause)
		pause = min(2*pause, retryMost)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	for r.pending() {
		if r.step(last, nil) != nil {
			return
		}
	}
}

// close answers whoever still waits.
func (r *Recorder) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trouble == nil {
		r.trouble = errors.New("the relay stops")
	}
	for _, e := range r.queue {
		e.done <- unavailable(r.trouble)
	}
	r.own, r.queue, r.waiting, r.refused.by = nil, nil, 0, nil
	if r.db != nil {
		_ = r.db.close()
		r.db = nil
	}
}

// step opens the database where there is none, waits for something to do and
// does it.
func (r *Recorder) step(ctx context.Context, prune <-chan time.Time) error {
	db, err := r.database(ctx)
	if err != nil {
		return r.failed(ctx, nil, err)
	}
	if !r.pending() {
		r.settled()
		select {
		case <-ctx.Done():
			return nil
		case <-prune:
			return r.failed(ctx, db, r.prune(ctx, db))
		case <-r.wake:
		}
	}
	if err := r.damage(); err != nil {
		return r.failed(ctx, db, err)
	}
	if !r.pending() {
		return nil
	}
	r.gather(ctx)
	if r.engine.gone() {
		return r.replace(db)
	}
	b := r.take(time.Now())
	if len(b.own)+len(b.reported)+len(b.refused.by) == 0 {
		return nil
	}
	if err := r.write(context.WithoutCancel(ctx), db, b); err != nil {
		told := r.failed(ctx, db, err) // logged before those who wait hear of it
		r.putBack(b, err)
		return told
	}
	r.settled()
	for _, e := range b.reported {
		e.done <- nil
	}
	return nil
}

func (r *Recorder) pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.own)+len(r.queue)+len(r.refused.by) > 0
}

func (r *Recorder) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// database gives the open database, or opens it.
func (r *Recorder) database(ctx context.Context) (*database, error) {
	r.mu.Lock()
	db := r.db
	r.mu.Unlock()
	if db != nil {
		return db, nil
	}
	db, err := r.engine.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.count(ctx, db); err != nil {
		return nil, errors.Join(err, db.close())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.db = db
	return db, nil
}

// settled notes that all is well.
func (r *Recorder) settled() {
	r.mu.Lock()
	was := r.trouble
	r.trouble = nil
	r.tellLocked()
	r.mu.Unlock()
	r.metrics.available.Set(1)
	if was != nil {
		r.log.Info("the activity record is written again")
	}
}

// tellLocked lets those go on who wait for the database, or for why there is none.
func (r *Recorder) tellLocked() {
	select {
	case <-r.opened:
	default:
		close(r.opened)
	}
}

// failed notes what went wrong, once. A damaged database is moved aside.
func (r *Recorder) failed(ctx context.Context, db *database, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	r.metrics.failures.Inc()
	if r.engine.damaged(err) {
		r.drop(db)
		to, moved := r.engine.aside(r.cfg.Now())
		if moved == nil {
			r.log.Error("the activity record was damaged; a new one is begun, the damaged one is kept beside it", "file", to, "error", err)
			return nil
		}
		err = errors.Join(err, moved)
	}
	r.metrics.available.Set(0)
	r.mu.Lock()
	first := r.trouble == nil
	r.mu.Unlock()
	if first { // before those who wait are told
		r.log.Error("the activity record is not written; copies go on, and it is tried again", "file", r.engine.name(), "error", err, "advice", unavailable(err).Advice())
	}
	r.mu.Lock()
	r.trouble = err
	r.tellLocked()
	r.mu.Unlock()
	return err
}

// suspect has the database looked at that a reading found damaged.
func (r *Recorder) suspect(db *database, err error) {
	r.mu.Lock()
	if r.db == db {
		r.broken = err
	}
	r.mu.Unlock()
	r.rouse()
}

// damage is what a reading found, once.
func (r *Recorder) damage() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.broken
	r.broken = nil
	return err
}

// replace gives up a database whose file is not there any more.
func (r *Recorder) replace(db *database) error {
	r.log.Error("the activity record was deleted behind the relay's back; a new one is begun", "file", r.engine.name())
	r.drop(db)
	return nil
}

// drop closes the database.
func (r *Recorder) drop(db *database) {
	r.mu.Lock()
	r.db = nil
	select {
	case <-r.opened:
		if r.trouble == nil { // readers wait for the next one
			r.opened = make(chan struct{})
		}
	default:
	}
	r.mu.Unlock()
	if db != nil {
		_ = db.close()
	}
}
