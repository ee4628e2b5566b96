// Package activity records what jobs' streams did: which run of which job moved
// how many bytes from and to which store, and how that ended.
//
// Each stream has two ends, and each reports its half when the stream is over:
// the ingress (the relay's own, or a client) and the node. The relay checks who
// says what and hands the halves to a [Recorder], which merges them by the
// stream's UUID and adds them up by run; [Recorder.List] reads the runs, newest
// first, page by page.
//
// The relay makes one Recorder with [New] and calls [Recorder.Run], which opens
// the database and writes until its context ends. [Recorder.Note] takes a half of
// the relay's own ingresses and never waits; [Recorder.Record] takes halves that
// somebody wants acknowledged, and returns when they are on the disk. Both may be
// called from any goroutine, at any time; halves may come twice and in any order.
// A half that was noted waits in memory, less than a second, for the far one, so
// that most streams are written once; halves that were written alone meet in the
// database.
//
// # Results
//
//	complete  both directions ended well. Where only one half came, its end has
//	          the other one's acknowledgement of every byte and digest
//	failed    the stream ended in another way, for a reason that one end knows
//	lost      one end vanished, and has not said its half yet
//	differs   both ends say that all is well, and their bytes or digests are not
//	          the same: one of them is wrong
//
// A run is as bad as its worst stream; one whose streams are all complete, and of
// which a dial was refused, is failed, for that reason. Refused dials
// ([Recorder.Refuse]) are no streams: a run's row counts them and has the reason of
// the last one. A lost stream becomes a failed one when
// the missing half comes after all.
//
// # What it does not do
//
// Nothing waits for it: dials, streams and the relay's start go on where its
// database is missing, damaged, full or locked. A damaged one is moved aside and
// a new one made, which the log says loudly. A crash of the relay costs the
// halves of its own ingresses of the last second; everybody else repeats theirs.
// It holds no secrets, and nothing in it decides about anything.
//
// # Where it is
//
// Beside the state's own database, never in it: a file, or, where several relays
// share a PostgreSQL, a schema of its own there, in which the halves of a stream
// meet that were reported to different relays.
//
//	activity.db            SQLite database, with -wal and -shm beside it
//	activity.db.damaged-*  what was moved aside; at most three
//
// The SQL is the same for both: TEXT and BIGINT, times in microseconds since 1970.
package activity
