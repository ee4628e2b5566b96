package tunnel

import (
	"errors"
	"slices"
	"testing"
)

func relayAt(name string) (Endpoint, RelayInfo) {
	at := Endpoint{Host: name, TLSPort: 443, QUICPort: 443}
	return at, RelayInfo{Identity: "spiffe://instance.test/relay/" + name, Host: name, Ports: Ports{TLS: 443, QUIC: 443}}
}

func wantPlaces(t *testing.T, r *Roster, want ...Endpoint) {
	t.Helper()
	for i := range Places {
		at, ok, _ := r.Place(i)
		if i < len(want) && (at != want[i] || !ok) || i >= len(want) && ok {
			t.Errorf("place %d has %v, want one of %v", i, at, want)
		}
	}
}

func TestRosterLearns(t *testing.T) {
	a, infoA := relayAt("a")
	b, infoB := relayAt("b")
	outside := Endpoint{Host: "relay.example.com", TLSPort: 443}
	r := NewRoster([]Endpoint{outside}, false, nil)
	wantPlaces(t, r, outside)
	if err := r.Arrived(0, outside, infoA.Identity); err != nil {
		t.Fatal(err)
	}
	changed := r.Changed()
	if !r.Learn([]RelayInfo{infoA, infoB}) || r.Learn([]RelayInfo{infoA, infoB}) || r.Learn(nil) {
		t.Error("what is news is no news, or the other way")
	}
	<-changed
	wantPlaces(t, r, outside, b) // a is who answers outside
	if all := r.All(); !slices.Equal(all, []Endpoint{outside, b}) {
		t.Errorf("all: %v", all)
	}
	// The relays' own names are enough where the one outside is taken away.
	r.Reseed([]Endpoint{a}, false)
	if all := r.All(); !slices.Equal(all, []Endpoint{a, b}) {
		t.Errorf("all: %v", all)
	}
	wantPlaces(t, r, a, b)
	r.Reseed([]Endpoint{a}, true)
	wantPlaces(t, r, a)
	r.Reseed(nil, false)
	r.Learn([]RelayInfo{infoB})
	_, first, _ := r.Place(0)
	if at, second, _ := r.Place(1); first || !second || at != b {
		t.Errorf("the only relay that is left has not its place, or two: %v", at)
	}
}

func TestRosterRotates(t *testing.T) {
	a, infoA := relayAt("a")
	b, _ := relayAt("b")
	c, _ := relayAt("c")
	r := NewRoster([]Endpoint{a, b}, true, nil)
	wantPlaces(t, r, a, b)
	r.Failed(0, a)
	wantPlaces(t, r, a, b) // there is nobody else
	r.Reseed([]Endpoint{a, b, c}, true)
	wantPlaces(t, r, a, b)
	r.Failed(0, a)
	wantPlaces(t, r, c, b)
	r.Failed(0, a) // late news
	wantPlaces(t, r, c, b)
	r.Failed(1, b)
	wantPlaces(t, r, c, a)
	if err := r.Arrived(1, a, infoA.Identity); err != nil {
		t.Fatal(err)
	}
	var twice *Error
	if err := r.Arrived(0, c, infoA.Identity); !errors.As(err, &twice) || twice.Code() != "relay-twice" {
		t.Errorf("one relay at two places: %v", err)
	}
	r.Left(1)
	if err := r.Arrived(0, c, infoA.Identity); err != nil {
		t.Error(err)
	}
}

// A relay that does not know a node yet is no reason to give up, while there is
// another one that may.
func TestRosterHopeless(t *testing.T) {
	a, _ := relayAt("a")
	b, infoB := relayAt("b")
	r := NewRoster([]Endpoint{a}, true, nil)
	if !r.Hopeless(0) {
		t.Error("the only relay refuses, and there is hope")
	}
	r = NewRoster([]Endpoint{a, b}, true, nil)
	if r.Hopeless(0) {
		t.Error("the other one was not asked yet")
	}
	if err := r.Arrived(1, b, infoB.Identity); err != nil {
		t.Fatal(err)
	}
	if r.Hopeless(0) {
		t.Error("the other one has a session")
	}
	r.Left(1)
	r.Failed(1, b)
	if !r.Hopeless(0) {
		t.Error("one refuses, the other one cannot be reached")
	}
}
