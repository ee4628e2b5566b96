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
	// maxWaiting bounds the halves that wait to be written: some 4 MB.
	maxWaiting = 16 << 10
	// maxBatch bounds what one transaction writes.
	maxBatch = 1024
	// hold is how long a half of this process' own waits for the far one, so that
	// the stream is written once; maxHeld bounds how many do.
	hold    = 700 * time.Millisecond
	maxHeld = maxWaiting / 2
	// gather is how long halves gather that somebody waits for, gatherMany the same
	// where there are many: then the two ends of a stream meet.
	gather     = 10 * time.Millisecond
	gatherMany = 60 * time.Millisecond
	many       = 64
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
	closing bool          // nothing waits for anything any more
	db      *database     // nil while there is none
	opened  chan struct{} // closed while db is there or trouble is
	trouble error         // why there is none, or why the last write failed
	broken  error         // a reading found damage
	lost    int           // halves that were dropped since the log last said so
	told    time.Time     // when it did
}

// own is a half of this process' own.
type own struct {
	Half
	since time.Time
}

// entry is halves that came together, and that somebody waits for.
type entry struct {
	halves []Half
	done   chan error // has room for one
	since  time.Time
}

// batch is what one transaction writes.
type batch struct {
	own      []own
	reported []entry
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

// fitsLocked counts n more halves that wait, where there is room for them.
func (r *Recorder) fitsLocked(n int) bool {
	if r.waiting+n > maxWaiting {
		return false
	}
	r.waiting += n
	r.metrics.waiting.Set(float64(r.waiting))
	return true
}

func (r *Recorder) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
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
	r.own, r.queue, r.waiting = nil, nil, 0
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
	r.gather(ctx)
	if r.engine.gone() {
		return r.replace(db)
	}
	b := r.take(time.Now())
	if len(b.own)+len(b.reported) == 0 {
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
	return len(r.own)+len(r.queue) > 0
}

// gather lets more come, so that one transaction writes them all, and each stream
// once.
func (r *Recorder) gather(ctx context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		wait := r.restLocked(time.Now())
		r.mu.Unlock()
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// restLocked is how long nothing has to be written yet.
func (r *Recorder) restLocked(now time.Time) time.Duration {
	reported := r.waiting - len(r.own)
	switch {
	case r.closing, reported >= maxBatch, len(r.own) >= maxHeld:
		return 0
	case len(r.queue) > 0 && reported >= many:
		return gatherMany - now.Sub(r.queue[0].since)
	case len(r.queue) > 0:
		return gather - now.Sub(r.queue[0].since)
	case len(r.own) > 0:
		return hold - now.Sub(r.own[0].since)
	}
	return 0
}

// take takes what is to be written now: what was reported, with our own halves of
// these streams, and those of our own that waited long enough.
func (r *Recorder) take(now time.Time) (b batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	far := make(map[[16]byte]struct{})
	n := 0
	for i, e := range r.queue {
		if n += len(e.halves); i > 0 && n > maxBatch {
			break
		}
		b.reported = append(b.reported, e)
		r.waiting -= len(e.halves)
		for j := range e.halves {
			far[e.halves[j].UUID] = struct{}{}
		}
	}
	r.queue = append([]entry(nil), r.queue[len(b.reported):]...)
	all := r.closing || len(r.own) >= maxHeld
	kept := r.own[:0]
	for i := range r.own {
		h := &r.own[i]
		_, met := far[h.UUID]
		if len(b.own) < maxBatch && (met || all || now.Sub(h.since) >= hold) {
			b.own = append(b.own, *h)
		} else {
			kept = append(kept, *h)
		}
	}
	clear(r.own[len(kept):])
	r.own = kept
	r.waiting -= len(b.own)
	r.metrics.waiting.Set(float64(r.waiting))
	return b
}

// putBack keeps what was not written for the next attempt; who waits is told.
func (r *Recorder) putBack(b batch, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range b.reported {
		e.done <- unavailable(err)
	}
	r.own = append(b.own, r.own...)
	r.waiting += len(b.own)
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
	r.mu.Unlock()
	if db != nil {
		_ = db.close()
	}
}
