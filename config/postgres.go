package config

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
)

// Postgres is the address of a PostgreSQL database. It may hold a password, and
// prints without it. The zero value is none.
type Postgres struct {
	url string // postgres://user:password@host/database?sslmode=…
	// PasswordFile holds the password where the address does not; it is read for
	// each connection.
	PasswordFile string
}

// Set tells whether there is an address.
func (p Postgres) Set() bool { return p.url != "" }

// Reveal is the address with its password.
func (p Postgres) Reveal() string { return p.url }

// Equal tells whether two are the same, password included.
func (p Postgres) Equal(o Postgres) bool { return p == o }

// String is the address without its password, and without options.
func (p Postgres) String() string {
	u, err := url.Parse(p.url)
	if err != nil {
		return "postgres://[redacted]"
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.User != nil {
		shown.User = url.User(u.User.Username())
	}
	return shown.String()
}

// Format keeps the password out of whatever is printed.
func (p Postgres) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// ParsePostgres checks an address. Without sslmode, a server on another machine
// has to show a certificate that this one trusts.
func ParsePostgres(address, passwordFile string) (Postgres, error) {
	c := &checker{origin: func(string) string { return "address" }}
	return c.postgres("", address, passwordFile), c.err()
}

func (c *checker) postgres(key, s, passwordFile string) Postgres {
	const example = "postgres: postgres://ebbgate@db.example.com/ebbgate"
	if s == "" {
		if passwordFile != "" {
			c.add("state.postgres_password_file", "needs state.postgres beside it", example)
		}
		return Postgres{}
	}
	u, err := url.Parse(s)
	// The text may hold a password, so it is not repeated.
	switch {
	case err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Opaque != "":
		c.add(key, "is not postgres://user@host/database", example)
		return Postgres{}
	case u.User == nil || u.User.Username() == "":
		c.add(key, "names no user", example)
		return Postgres{}
	case strings.Trim(u.Path, "/") == "":
		c.add(key, "names no database", example)
		return Postgres{}
	}
	if _, has := u.User.Password(); has && passwordFile != "" {
		c.add(key, "holds a password, and state.postgres_password_file names another", example)
	}
	options, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		c.add(key, "has options that cannot be read", example+"?sslmode=verify-full")
		return Postgres{}
	}
	if options.Has("password") {
		c.add(key, "holds a password as an option; it belongs into state.postgres_password_file", example)
	}
	if !options.Has("sslmode") {
		mode := "verify-full"
		if near(u, options) {
			mode = "prefer"
		}
		options.Set("sslmode", mode)
		u.RawQuery = options.Encode()
	}
	return Postgres{url: u.String(), PasswordFile: passwordFile}
}

// near tells whether every server of an address is on this machine.
func near(u *url.URL, options url.Values) bool {
	hosts := strings.Split(u.Host, ",")
	if options.Has("host") {
		hosts = strings.Split(options.Get("host"), ",")
	}
	for _, host := range hosts {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "" && host != "localhost" && !strings.HasPrefix(host, "/") && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}
