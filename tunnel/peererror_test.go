package tunnel

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
)

// TestPeerError: a peer's error keeps what it says, and nothing that a terminal
// or a metric would suffer from.
func TestPeerError(t *testing.T) {
	read := func(e Error) *Error {
		t.Helper()
		body, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var got *Error
		if !errors.As(peerError("grant", body), &got) {
			t.Fatalf("no *Error of %s", body)
		}
		return got
	}
	good := Error{ErrCode: "job-not-allowed", ErrHop: "relay", Message: "job nächtlich may not dial\ncorp/erp", Advise: "allow it", Final: true}
	if got := read(good); *got != good {
		t.Errorf("%+v, want %+v", got, good)
	}
	got := read(Error{
		ErrCode: strings.Repeat("x", 5000), ErrHop: "\x1b[31m", Message: "\x1b]0;owned\a" + strings.Repeat("ä", 60_000), Advise: "\r\x00\u009b31m\u202e",
	})
	if got.ErrCode != "peer-error" || got.ErrHop != "relay" || len(got.Message) > maxPeerText+1 {
		t.Errorf("%.50q %.50q and %d bytes", got.ErrCode, got.ErrHop, len(got.Message))
	}
	if strings.ContainsFunc(got.Message+got.Advise, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("%.80q, %q", got.Message, got.Advise)
	}
	if err := peerError("grant", json.RawMessage(`[1]`)); err == nil || errors.As(err, new(*Error)) {
		t.Errorf("nonsense is %v", err)
	}
}
