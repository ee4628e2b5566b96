package state

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
)

// FuzzFiles changes the files of a state: six bytes of script choose the file,
// the place and what happens there. The state opens with all that it knew, or is
// refused as damaged; it is never another one, never a new one.
func FuzzFiles(f *testing.F) {
	var whole image
	var want map[string]any
	f.Fuzz(func(t *testing.T, script []byte) {
		if whole == nil {
			opt, content := filled(t)
			whole, want = imageOf(t, opt.Dir), content
		}
		if len(script) > 6*16 {
			return
		}
		names := []string{nameDatabase, nameKey, nameMarker, nameDatabase + "-journal"}
		changed := whole
		for ; len(script) >= 6; script = script[6:] {
			name := names[int(script[0])%len(names)]
			raw := bytes.Clone(changed[name])
			at := int(script[1])<<16 | int(script[2])<<8 | int(script[3])
			if len(raw) > 0 {
				at %= len(raw)
			} else {
				at = 0
			}
			switch op := script[4] % 8; {
			case op == 0: // the file is gone
				raw = nil
			case op == 1:
				raw = raw[:at]
			case op == 2:
				raw = append(raw, script[5])
			case op == 3:
				raw = bytes.Repeat(script[5:6], int(script[3])+1)
			case len(raw) > 0:
				raw[at] ^= script[5]
			}
			if op := script[4] % 8; raw == nil && op != 0 {
				raw = []byte{}
			}
			changed = changed.with(name, raw)
		}
		refused, wrong := changed.attempt(t, filepath.Join(scratch(t), "state"), want)
		if errors.Is(refused, ErrMissing) && changed[nameDatabase] == nil && changed[nameMarker] == nil {
			return // nothing is left but perhaps a key, which an operator may have made
		}
		if wrong != nil {
			t.Errorf("%v: %v", refused, wrong)
		}
	})
}
