// Package state is what a relay must not forget: tenants, gateways and their
// authentication keys, nodes, jobs and their tokens, and the generations of the
// relay's certificate authority.
//
// [Init] makes state exactly once. [Open] opens it, and nothing else: what is
// missing, damaged or of two minds is refused with an error that says how to
// restore it, and never replaced by something new. A [State] is one relay's and
// safe for concurrent use; [State.Close] ends it.
//
// # Reads and changes
//
// Reads are answered from memory, from a snapshot that is never changed, and
// neither wait nor fail: dials do not depend on the disk. Changes go to the
// database one at a time; when a change returns nil, it is on the disk and
// visible to reads. When the disk is full or the database is locked, changes
// fail with an error that is [ErrUnavailable], reads go on, and the next change
// tries again. A change that has begun is not given up when its context ends.
//
// # Files
//
//	state.db      SQLite database: one table for each kind of record
//	state.key     32 random bytes that secrets are encrypted and rows sealed with
//	state.marker  the instance's id and a digest of every CA generation
//	state.lock    locked by the relay that has the state open
//	state.init    a directory: an Init that was cut off; the next Init or Open
//	              either finishes or forgets it
//
// The three first belong together: back them up together, and restore them
// together. state.key may lie elsewhere ([Options.KeyFile]).
//
// # Integrity
//
// Each row carries an HMAC-SHA-256 over its table, its columns' names and its
// values; the row of table instance carries the sum of all others, and a
// revision that grows by one with each change. A change compares and sets the
// revision, so that nothing is written on top of what this relay has not seen.
// Open checks SQLite's own structures, the schema against what the migrations
// make, every row, the sum, and the marker. This finds damage and edits; who
// replaces all files by older ones of the same instance, or has the key, is
// not found out.
//
// # Several relays
//
// With [Options.Postgres], the tables are in a database of PostgreSQL, which
// several relays share; state.db is not there. Each relay has a directory of its
// own, with the same key and with a marker. The first Init makes the instance, the
// next ones, each in its directory, join it: with the key they prove that it is
// theirs. [State.Follow] takes over what other relays change, as they tell of it
// or else by asking every second; [State.CatchUp] does so at once. While the
// database is away, reads go on, changes fail.
//
// The SQL is the same for both: TEXT and BIGINT, times in microseconds since 1970,
// bytes in base64.
package state
