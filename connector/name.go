package connector

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ebbgate/ebbgate/certs"
)

// maxKeyFile bounds a file with an authentication key, in bytes.
const maxKeyFile = 64 << 10

// nodeName checks a node's name, or makes one of the host's.
func nodeName(given string) (string, error) {
	if given != "" {
		if !certs.ValidName(given) {
			return "", failure("name-invalid", "config", nil, fmt.Sprintf("a name has 1 to 63 of a-z, 0-9 and -: --name %s", validName(given)),
				"%.80q cannot be a node's name", given)
		}
		return given, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", failure("name-invalid", "config", err, "name the node: --name NODE", "the machine's name is not known: %v", err)
	}
	return validName(host), nil
}

// validName makes a node's name of any text: the first label of a host name.
func validName(s string) string {
	s, _, _ = strings.Cut(s, ".")
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, s)
	if len(s) > 63 {
		s = s[:63]
	}
	if s = strings.Trim(s, "-"); s == "" {
		return "node"
	}
	return s
}

// readKey reads an authentication key from a file, or from stdin for "-". The
// key is not quoted in any error.
func readKey(path string, stdin io.Reader) (certs.Key, error) {
	if path == "" {
		return certs.Key{}, failure("key-missing", "config", nil, "name a file with the gateway's key, or - for standard input: --key-file FILE", "no authentication key is given")
	}
	in, what := stdin, "standard input"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return certs.Key{}, keyUnreadable(path, err)
		}
		defer f.Close()
		in, what = f, path
	}
	if in == nil {
		return certs.Key{}, keyUnreadable(what, io.ErrUnexpectedEOF)
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxKeyFile+1))
	switch {
	case err != nil:
		return certs.Key{}, keyUnreadable(what, err)
	case len(raw) > maxKeyFile:
		return certs.Key{}, keyUnreadable(what, fmt.Errorf("it has more than %d bytes", maxKeyFile))
	}
	return certs.ParseKey(string(raw))
}

func keyUnreadable(what string, err error) *Error {
	return failure("key-unreadable", "config", err, "name a file with the gateway's key, which ebbgate gateway keys NAME shows, or - for standard input",
		"the authentication key cannot be read from %s: %v", what, reason(err))
}
