package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const exampleProxy = "url: http://proxy.corp.example:8080"

// DefaultResumeGrace is how long streams wait for a lane unless told otherwise.
const DefaultResumeGrace = 120 * time.Second

// maxResumeGrace bounds it: a stream that waits holds memory and sockets.
const maxResumeGrace = time.Hour

// checker collects problems, so that all of them are told at once.
type checker struct {
	origin   func(key string) string
	problems []Problem
}

func (c *checker) add(key, message, example string) {
	c.problems = append(c.problems, Problem{Where: c.origin(key), Key: key, Message: message, Example: example})
}

func (c *checker) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	return &Error{Problems: c.problems}
}

// listen checks an address to listen on; the empty one means nowhere.
func (c *checker) listen(key, s string) Listen {
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || (host != "" && !validHost(host)) || !validPort(port) {
		c.add(key, quote(s)+" is not host:port", `"127.0.0.1:443", or ":443" for all addresses`)
		return ""
	}
	return Listen(s)
}

// duration checks a length of time up to most; the empty text is otherwise.
func (c *checker) duration(key, s string, otherwise, most time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	if s == "0" {
		d, err = 0, nil
	}
	if err != nil || d < 0 || d > most {
		c.add(key, fmt.Sprintf("%s is no time from 0 to %v", quote(s), most), fmt.Sprintf("%s: %v", key, otherwise))
	}
	return d
}

// count checks a number up to most; 0 is otherwise.
func (c *checker) count(key string, n, otherwise, most int) int {
	if n < 0 || n > most {
		c.add(key, fmt.Sprintf("%d is no number from 0 to %d", n, most), "")
	}
	return cmp.Or(n, otherwise)
}

func (c *checker) host(key, s, example string) string {
	switch {
	case s == "":
		c.add(key, "is missing", key+": "+example)
	case !validHost(s):
		c.add(key, quote(s)+" is no host name or IP address, without port or scheme", key+": "+example)
	}
	return s
}

func (c *checker) port(key string, n int) {
	if n < 0 || n > 65535 {
		c.add(key, fmt.Sprintf("%d is no port, which is 1 to 65535", n), "443")
	}
}

func (c *checker) name(key, s, example string) string {
	if !validName(s) {
		c.add(key, quote(s)+" is no name, which is 1 to 63 of a-z, 0-9 and -", example)
	}
	return s
}

func (c *checker) proxyURL(key, s string) {
	u, err := url.Parse(s)
	switch {
	case strings.Contains(s, "@"):
		// The text may hold a password, so it is not repeated.
		c.add(key, "holds a user; that belongs to proxy.username and proxy.password_file", exampleProxy)
	case err != nil || u.Host == "" || u.Opaque != "" || !validHost(u.Hostname()):
		c.add(key, quote(s)+" is not http://host:port", exampleProxy)
	case u.Scheme != "http":
		c.add(key, fmt.Sprintf("begins with %s, but only http:// is possible", quote(u.Scheme)), exampleProxy)
	case u.Port() == "" || u.Port() == "0" || !validPort(u.Port()):
		c.add(key, quote(s)+" does not name the proxy's port", exampleProxy)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		c.add(key, quote(s)+" goes on after the port", exampleProxy)
	}
}

// choice checks that s is one of the values allowed.
func choice[T ~string](c *checker, key, s string, allowed ...T) T {
	for _, a := range allowed {
		if s == string(a) {
			return a
		}
	}
	known := make([]string, len(allowed))
	for i, a := range allowed {
		known[i] = string(a)
	}
	message := quote(s) + " is none of " + strings.Join(known, ", ")
	if near := nearest(s, known); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	}
	c.add(key, message, "")
	return ""
}

// choices does the same for a list, in which no value may occur twice.
func choices[T ~string](c *checker, key string, list []string, allowed ...T) []T {
	var out []T
	seen := make(map[string]bool)
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		if seen[s] {
			c.add(at, quote(s)+" is listed twice", "")
			continue
		}
		seen[s] = true
		out = append(out, choice(c, at, s, allowed...))
	}
	return out
}

// maxAliases is how many a relay takes of a store.
const maxAliases = 64

// aliases checks a store's aliases and gives each its canonical spelling.
func (c *checker) aliases(key string, list []string) (out []string) {
	if len(list) > maxAliases {
		c.add(key, fmt.Sprintf("has %d aliases, at most %d are possible", len(list), maxAliases), "")
	}
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		host, port, ok := splitHostPort(s)
		if !ok || port == 0 || !validHost(host) {
			c.add(at, quote(s)+" is not host:port, the host in ASCII", "aliases: [sql01.corp.local:1433]")
			continue
		}
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if a, err := netip.ParseAddr(host); err == nil {
			host = a.Unmap().String()
		}
		alias := net.JoinHostPort(host, strconv.Itoa(port))
		if slices.Contains(out, alias) {
			c.add(at, quote(s)+" is listed twice", "")
			continue
		}
		out = append(out, alias)
	}
	return out
}

// splitHostPort reads host:port, host (port 0), [v6]:port and a bare v6.
func splitHostPort(s string) (host string, port int, ok bool) {
	if _, err := netip.ParseAddr(s); err == nil {
		return s, 0, true
	}
	if !strings.Contains(s, ":") {
		return s, 0, s != ""
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil || host == "" || !validPort(p) {
		return "", 0, false
	}
	port, _ = strconv.Atoi(p)
	return host, port, port != 0
}

// validPort takes 0 to 65535 in plain digits.
func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// validName takes what may be part of an identity.
func validName(s string) bool {
	return len(s) >= 1 && len(s) <= 63 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// validHost takes an IP address or what has the form of a DNS name. Whether a
// name is an address in disguise (0x7f.1) is decided where it is dialled.
func validHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			switch {
			case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			default:
				return false
			}
		}
	}
	return true
}

// quote makes a value printable and short.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// defaultDir is where a service of that name keeps its state.
func defaultDir(name string) string {
	if runtime.GOOS == "windows" {
		return filepath.Join(or(os.Getenv("ProgramData"), `C:\ProgramData`), name)
	}
	return "/var/lib/" + name
}
