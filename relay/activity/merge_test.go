package activity

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// counts are the halves by what became of them.
func counts(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	by := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "ebbgate_activity_halves_total" {
				by[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return by
}

// held is how many halves of its own the recorder holds.
func (r *recording) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.own)
}

// TestHalvesMeet: a half of the relay's own waits for the far one, and both are one
// row, whichever comes first; one whose partner is late, or never comes, is written
// by itself.
func TestHalvesMeet(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	r := record(t, filepath.Join(t.TempDir(), "activity.db"), func(r *Recorder) { r.metrics = newMetrics(reg) })
	r.Note(half(Ingress, 1))
	r.Note(half(Ingress, 2)) // whose partner is late
	r.Note(half(Ingress, 3)) // whose partner never comes
	r.record(half(Node, 1), half(Node, 4))
	r.Note(half(Ingress, 4)) // the far half was first
	r.until("all are written", func() bool { u := r.list(Query{})[0]; return u.Streams == 4 && u.OneSided == 2 && u.BytesRead == 400 })
	r.record(half(Node, 2))
	if u := r.list(Query{})[0]; u.Streams != 4 || u.OneSided != 1 || u.Result != Complete {
		t.Errorf("late: %+v", u)
	}
	r.record(half(Node, 1), half(Node, 1), half(Node, 2), half(Ingress, 3)) // again
	if got := counts(t, reg); got[recorded] != 7 || got[repeated] != 4 {
		t.Errorf("%v, want 7 recorded and 4 repeated", got)
	}
}

// TestHalvesMeetAgain: a half that was written before a restart meets its partner
// after it.
func TestHalvesMeetAgain(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	r.Note(half(Ingress, 1))
	r.record(half(Node, 2))
	r.stop() // writes what waits
	again := record(t, r.path, nil)
	again.Note(half(Ingress, 2))
	again.record(half(Node, 1))
	again.until("both are whole", func() bool { u := again.list(Query{})[0]; return u.Streams == 2 && u.OneSided == 0 })
}

// TestManyAtOnce: streams of several runs, in statements of every size, some of
// them known before, with and without partners.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	const streams = 64*2 + 8*3 + 5
	of := func(s Side, n int) Half { return with(half(s, n), func(h *Half) { h.Run = fmt.Sprint(n % 3) }) }
	var known, all []Half
	for n := range streams {
		if n%7 == 0 {
			known = append(known, of(Ingress, n))
		}
		all = append(all, of(Node, n))
		if n%5 != 0 {
			all = append(all, of(Ingress, n))
		}
	}
	r.record(known...)
	r.record(all...)
	var sum, oneSided, bytes int64
	for _, u := range r.list(Query{}) {
		sum, oneSided, bytes = sum+u.Streams, oneSided+u.OneSided, bytes+u.BytesRead
	}
	wantOne := int64(0)
	for n := range streams {
		if n%5 == 0 && n%7 != 0 {
			wantOne++
		}
	}
	if sum != streams || oneSided != wantOne || bytes != 100*streams {
		t.Errorf("%d streams, %d of them with one half, %d bytes; want %d, %d, %d", sum, oneSided, bytes, streams, wantOne, 100*streams)
	}
}

// TestHeldNotLong: what is held is written before a second is over, and no more is
// held than may be; in virtual time.
func TestHeldNotLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		for n := range 3 {
			r.Note(half(Ingress, n))
		}
		far := entry{halves: []Half{half(Node, 3), half(Node, 1)}, done: make(chan error, 1), since: time.Now()}
		r.queue, r.waiting = append(r.queue, far), r.waiting+2
		r.gather(t.Context())
		b := r.take(time.Now())
		list, repeats := r.streams(b)
		if len(list) != 2 || repeats != 0 || len(r.own) != 2 || list[0].halves[Ingress] == nil || list[0].halves[Node] == nil || list[1].halves[Ingress] != nil {
			t.Errorf("%d streams, %d are held: %+v", len(list), len(r.own), list)
		}
		time.Sleep(hold)
		if b := r.take(time.Now()); len(b.own) != 2 || r.waiting != 0 {
			t.Errorf("%+v, and %d wait", b, r.waiting)
		}
		r.Note(half(Ingress, 1))
		r.gather(t.Context())
		time.Sleep(time.Millisecond) // the next one is younger
		r.Note(half(Ingress, 2))
		if b := r.take(time.Now()); len(b.own) != 1 || len(b.reported) != 0 || len(r.own) != 1 {
			t.Errorf("%+v", b)
		}
		start := time.Now()
		r.gather(t.Context())
		if waited := time.Since(start); waited <= 0 || waited > hold {
			t.Errorf("held for %v", waited)
		}
		for n := range 2 * maxWaiting {
			r.Note(half(Ingress, n))
		}
		if len(r.own) > maxWaiting {
			t.Errorf("%d are held", len(r.own))
		}
		r.gather(t.Context())
		written := 0
		for n := 1; n > 0; written += n {
			b := r.take(time.Now())
			if n = len(b.own); n > maxBatch {
				t.Errorf("a batch of %d", n)
			}
			if written == 0 { // a failure loses nothing
				r.putBack(b, errors.New("no"))
				b = r.take(time.Now())
			}
		}
		if got := len(r.own); got >= maxHeld || r.waiting != got {
			t.Errorf("%d are left, %d are counted", got, r.waiting)
		}
	})
}

// TestPlacesWithoutNumbers: the statements that write use each place once and in
// order, so that their numbers mean nothing.
func TestPlacesWithoutNumbers(t *testing.T) {
	t.Parallel()
	for _, text := range writingStatements() {
		for i, place := range numbered.FindAllString(text, -1) {
			if place != fmt.Sprintf("$%d", i+1) {
				t.Errorf("place %d is %s: %.60s", i+1, place, text)
				break
			}
		}
		if strings.Contains(text, "?") {
			t.Errorf("a place without a number: %.60s", text)
		}
	}
}

// TestNotedAfterFailure: own halves wait for a database that comes late.
func TestNotedAfterFailure(t *testing.T) {
	t.Parallel()
	r := record(t, filepath.Join(t.TempDir(), "no", "such", "activity.db"), nil)
	r.Note(half(Ingress, 1))
	if _, err := r.List(t.Context(), Query{Tenant: "t"}); err == nil {
		t.Error("a list without a database")
	}
	if r.held() != 1 {
		t.Errorf("%d are held", r.held())
	}
}

// refusal is a dial of a run that was refused.
func refusal(run string) Refusal {
	return Refusal{Tenant: "t", Job: "j", Run: run, Gateway: "g", Store: "s", At: noon, Reason: "no-node-online", Hop: "gateway"}
}

func refusalWith(x Refusal, change func(*Refusal)) Refusal {
	change(&x)
	return x
}

// TestRefused: dials that were refused are counted by run, with or without streams;
// a report counts once.
func TestRefused(t *testing.T) {
	t.Parallel()
	r := fresh(t)
	for range 1000 { // one row
		r.Refuse(refusal("none"))
	}
	again := refusalWith(refusal("again"), func(x *Refusal) { x.UUID, x.Node, x.At = [16]byte{1}, "n", noon.Add(time.Second) })
	r.Refuse(again)
	r.Refuse(again)
	want := []Run{
		{Job: "j", Run: "again", Gateway: "g", Node: "n", Store: "s", Start: again.At, End: again.At, Refused: 1, Result: Failed, Reason: "no-node-online", Hop: "gateway"},
		{Job: "j", Run: "none", Gateway: "g", Store: "s", Start: noon, End: noon, Refused: 1000, Result: Failed, Reason: "no-node-online", Hop: "gateway"},
	}
	r.until("they are written", func() bool { return cmp.Equal(want, r.list(Query{})) })
	late := refusalWith(refusal("r"), func(x *Refusal) { x.Node, x.At, x.Reason, x.Hop = "n", noon.Add(time.Hour), "store-refused", "store" })
	r.record(half(Ingress, 1))
	r.Refuse(late)
	r.until("it is in the run of the stream", func() bool { return r.list(Query{})[0].Run == "r" && r.list(Query{})[0].Refused == 1 })
	if u := r.list(Query{})[0]; u.Streams != 1 || u.Failed != 0 || u.Result != Failed || u.Reason != "store-refused" || u.Hop != "store" || u.BytesRead != 100 || !u.End.Equal(late.At) {
		t.Errorf("%+v", u)
	}
	r.record(ended(half(Ingress, 2), "store-reset", false)) // a stream's reason goes before
	if u := r.list(Query{})[0]; u.Reason != "store-reset" || u.Failed != 1 || u.Refused != 1 {
		t.Errorf("%+v", u)
	}
	r.Refuse(refusal("last"))
	r.stop()
	if after := record(t, r.path, nil).list(Query{}); len(after) != 4 {
		t.Errorf("after a restart: %+v", after)
	}
}

// TestRefusedBounded: a storm of refused dials of ever other runs is a bounded
// number of rows, and a failure keeps them.
func TestRefusedBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{})
		const storm = 10_000
		for n := range storm {
			r.Refuse(refusal(fmt.Sprint(n)))
			r.Refuse(refusalWith(refusal(""), func(x *Refusal) { x.UUID, x.Job = [16]byte{byte(n), byte(n >> 8), 1}, fmt.Sprint("j", n%100) }))
		}
		r.gather(t.Context())
		b := r.take(time.Now())
		r.Refuse(refusal("meanwhile"))
		r.putBack(b, errors.New("no"))
		b = r.take(time.Now())
		var sum int64
		for _, more := range b.refused.by {
			sum += more.count
		}
		if len(b.refused.by) > 2*maxRefused || sum != 2*storm+1 || len(r.refused.by) != 0 {
			t.Errorf("%d refusals in %d rows", sum, len(b.refused.by))
		}
		for _, known := range r.refused.lately {
			if len(known) > maxLately {
				t.Errorf("%d reports are remembered", len(known))
			}
		}
	})
}
