package tunnel

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// maxPeerText and maxPeerName bound what is repeated of a peer's texts and of its
// codes, in bytes.
const (
	maxPeerText = 2000
	maxPeerName = 64
)

// peerError is the error that a peer answered typ with. People read it and
// terminals show it, so its texts are short and printable, and its code and hop
// are words.
func peerError(typ string, body json.RawMessage) error {
	e := new(Error)
	if err := json.Unmarshal(body, e); err != nil {
		return fmt.Errorf("tunnel: %s: %w", typ, err)
	}
	if !word(e.ErrCode) {
		e.ErrCode = "peer-error"
	}
	if !word(e.ErrHop) {
		e.ErrHop = "relay"
	}
	e.Message, e.Advise = printable(e.Message, maxPeerText), printable(e.Advise, maxPeerText)
	return e
}

// word tells whether a text looks like a code or a hop.
func word(s string) bool {
	return s != "" && len(s) <= maxPeerName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// printable is at most so many bytes of a text, with spaces for what a terminal
// would obey.
func printable(s string, most int) string {
	s = strings.ToValidUTF8(s[:min(len(s), most)], "?")
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
