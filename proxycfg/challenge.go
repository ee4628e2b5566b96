package proxycfg

import "strings"

const maxChallenges = 32

// challenge is one scheme that a proxy offers (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string
	// token is the token68 that follows, if that is what follows.
	token string
}

// parseChallenges reads Proxy-Authenticate lines, each of which may hold several
// challenges. Parameters are skipped: no scheme here needs any.
func parseChallenges(lines []string) []challenge {
	var found []challenge
	for _, line := range lines {
		for _, part := range splitList(line) {
			// A part is "Scheme", "Scheme token68", "Scheme name=value" or, going on
			// with the scheme before, "name=value".
			scheme, after, _ := strings.Cut(part, " ")
			if !isToken(scheme) || strings.HasPrefix(strings.TrimSpace(after), "=") {
				continue
			}
			if len(found) == maxChallenges {
				return found
			}
			c := challenge{scheme: scheme}
			if after = strings.TrimSpace(after); isToken68(after) {
				c.token = after
			}
			found = append(found, c)
		}
	}
	return found
}

// splitList splits at commas outside of quoted strings.
func splitList(s string) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	parts = append(parts, s[start:])
	trimmed := parts[:0]
	for _, p := range parts {
		if p = strings.TrimSpace(strings.ReplaceAll(p, "\t", " ")); p != "" {
			trimmed = append(trimmed, p)
		}
	}
	return trimmed
}

// isToken says whether s is an RFC 9110 token.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !isAlphanumeric(r) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// isToken68 says whether s is an RFC 9110 token68.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !isAlphanumeric(r) && !strings.ContainsRune("-._~+/", r)
	})
}

func isAlphanumeric(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// offered names the schemes for a person.
func offered(list []challenge) string {
	if len(list) == 0 {
		return "no scheme at all"
	}
	var names []string
	for _, c := range list {
		if len(names) == 8 {
			names = append(names, "…")
			break
		}
		names = append(names, quotable(c.scheme[:min(len(c.scheme), 32)]))
	}
	return strings.Join(names, ", ")
}
