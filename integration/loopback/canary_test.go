package loopback

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// canaries are secrets that must not be seen, by what they are.
type canaries map[string][]byte

// add plants a secret. One of less than 8 bytes would be found by chance.
func (c canaries) add(t *testing.T, what string, secret []byte) {
	t.Helper()
	if len(secret) < 8 {
		t.Fatalf("%s has %d bytes", what, len(secret))
	}
	c[what] = bytes.Clone(secret)
}

// find tells which secrets stand in a text, and in which form.
func (c canaries) find(text []byte) (found []string) {
	lower := bytes.ToLower(text)
	for what, secret := range c {
		for form, needle := range forms(secret) {
			in := text
			if form == "hex" {
				in = lower
			}
			if bytes.Contains(in, needle) {
				found = append(found, what+" ("+form+")")
			}
		}
	}
	slices.Sort(found)
	return found
}

// forms are the ways in which a secret may stand in a text. Base64 of a longer text that holds it has one of three
// forms, of which the ends, which depend on what stands beside it, are cut off; so padding makes no difference.
func forms(secret []byte) map[string][]byte {
	list := map[string][]byte{
		"raw": secret, "hex": []byte(hex.EncodeToString(secret)),
		"query-escaped": []byte(url.QueryEscape(string(secret))), "path-escaped": []byte(url.PathEscape(string(secret))),
		"userinfo": []byte(strings.TrimPrefix(url.UserPassword("", string(secret)).String(), ":")),
	}
	if quoted, err := json.Marshal(string(secret)); err == nil {
		list["JSON"] = bytes.Trim(quoted, `"`)
	}
	list["quoted"] = []byte(strings.Trim(fmt.Sprintf("%q", secret), `"`))
	for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
		for offset := range 3 {
			text := encoding.EncodeToString(append(make([]byte, offset), secret...))
			first := (offset*8 + 5) / 6 // the first character that holds bits of the secret alone
			last := (offset + len(secret)) * 8 / 6
			list[fmt.Sprintf("%s at %d", name, offset)] = []byte(text[first:last])
		}
	}
	return list
}

// TestCanariesAreFound plants secrets in every form in texts, and has them found.
func TestCanariesAreFound(t *testing.T) {
	binary := make([]byte, 32)
	for i := range binary {
		binary[i] = byte(250 - 7*i)
	}
	c := canaries{}
	c.add(t, "password", []byte("c4näry?/pass%word+&"))
	c.add(t, "key", binary)
	for _, what := range []string{"password", "key"} {
		secret := c[what]
		beside := func(n int) []byte { return []byte("user:x"[:n]) }
		for name, text := range map[string]string{
			"raw": string(secret), "hex": fmt.Sprintf("%x", secret), "HEX": fmt.Sprintf("%X", secret),
			"query": "?a=" + url.QueryEscape(string(secret)) + "&b", "path": "/x/" + url.PathEscape(string(secret)),
			"URL":    (&url.URL{Scheme: "http", User: url.UserPassword("svc", string(secret)), Host: "proxy:80"}).String(),
			"quoted": fmt.Sprintf("%q", secret),
		} {
			if found := c.find([]byte("level=INFO msg=" + text + " end")); !slices.ContainsFunc(found, func(s string) bool { return strings.HasPrefix(s, what+" ") }) {
				t.Errorf("%s: %s is not found in %q, but %q", what, name, text, found)
			}
		}
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
			for before := range 4 {
				for after := range 4 {
					text := encoding.EncodeToString(slices.Concat(beside(before), secret, beside(after)))
					if found := c.find([]byte("Basic " + text)); len(found) == 0 {
						t.Errorf("%s is not found in base64 with %d bytes before and %d after: %q", what, before, after, text)
					}
				}
			}
		}
	}
	for _, clean := range []string{"", "c4nary", "Basic dXNlcjpwYXNzd29yZA==", strings.Repeat("A", 100)} {
		if found := c.find([]byte(clean)); len(found) > 0 {
			t.Errorf("%q is found in %q", found, clean)
		}
	}
}
