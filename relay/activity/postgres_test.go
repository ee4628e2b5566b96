package activity

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// onPostgres runs a recorder as another relay of a database.
func onPostgres(t *testing.T, address string) *recording {
	t.Helper()
	at, err := config.ParsePostgres(address, "")
	if err != nil {
		t.Fatal(err)
	}
	return record(t, "", func(r *Recorder) { r.cfg.Postgres = at; r.engine = r.cfg.engine() })
}

// TestPostgres: two relays record into one schema; what each heard of a stream
// comes together, also at the same moment.
func TestPostgres(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	address := server.Database(t)
	a, b := onPostgres(t, address), onPostgres(t, address) // both make the schema
	const streams, runs = 400, 3
	var all sync.WaitGroup
	for relay, side := range map[*recording]Side{a: Ingress, b: Node} {
		for part := range 8 {
			all.Go(func() {
				for n := part; n < streams; n += 8 {
					h := with(half(side, n), func(h *Half) { h.Run = fmt.Sprint(n % runs) })
					for again := 0; ; again++ {
						err := relay.Record(t.Context(), []Half{h, h})
						if err == nil {
							break
						}
						if again == 20 {
							t.Error(err)
							return
						}
					}
				}
			})
		}
	}
	all.Wait()
	a.record(half(Ingress, 9000), with(half(Ingress, 9001), func(h *Half) { h.Read++ }))
	b.record(half(Node, 9001), ended(half(Node, 9002), "lanes-lost", false))
	a.record(ended(half(Ingress, 9002), "lanes-lost", false))
	got := a.list(Query{})
	if d := cmp.Diff(got, b.list(Query{})); d != "" {
		t.Error(d)
	}
	var sum int64
	for _, u := range got {
		sum += u.Streams
		want := Complete
		if u.Run == "r" {
			want = Differs
		}
		if u.Result != want || u.BytesRead-u.Differ != 100*u.Streams || u.Resumes != u.Streams {
			t.Errorf("%+v", u)
		}
	}
	if sum != streams+3 || len(got) != runs+1 {
		t.Errorf("%d streams in %d runs", sum, len(got))
	}
	t.Run("away", func(t *testing.T) {
		server.Stop()
		if err := a.Record(t.Context(), []Half{half(Ingress, 9003)}); err == nil {
			t.Error("recorded without a database")
		}
		a.Note(half(Ingress, 9004))
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		late, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for a.Record(t.Context(), []Half{half(Ingress, 9003)}) != nil {
			<-tick.C
		}
		a.record(half(Ingress, 9005))
		var page Page
		for { // until the one that was noted is there, too
			var err error
			if page, err = b.List(t.Context(), Query{Tenant: "t"}); err == nil &&
				slices.ContainsFunc(page.Runs, func(u Run) bool { return u.Run == "r" && u.Streams == 6 }) {
				return
			}
			select {
			case <-tick.C:
			case <-late.Done():
				t.Fatalf("%+v, %v", page, err)
			}
		}
	})
	t.Run("newer", func(t *testing.T) {
		server.Exec(t, address, "INSERT INTO ebbgate_activity.goose_db_version (version_id, is_applied) VALUES (99, true)")
		late := onPostgres(t, address)
		if _, err := late.List(t.Context(), Query{Tenant: "t"}); err == nil {
			t.Error("the tables of a newer program are used")
		}
		server.Exec(t, address, "DELETE FROM ebbgate_activity.goose_db_version WHERE version_id = 99")
	})
}

// TestPostgresSchema: beside a state that is in a schema of its own, the record
// is so, too.
func TestPostgresSchema(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	address := server.Database(t)
	server.Exec(t, address, `CREATE SCHEMA blue`)
	r := onPostgres(t, address+"?search_path=blue")
	r.record(half(Ingress, 1))
	other := onPostgres(t, address)
	if runs := other.list(Query{}); len(runs) != 0 {
		t.Errorf("another schema has %+v", runs)
	}
	server.Exec(t, address, `SELECT 1 / count(*) FROM blue_activity.runs`)
}
