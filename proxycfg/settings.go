package proxycfg

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Mode says where the proxy comes from.
type Mode string

const (
	// ModeNone connects directly. It is what the empty Mode means.
	ModeNone Mode = "none"
	// ModeSystem asks the environment: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, or
	// their lower-case names, which win. Port 80 goes by HTTP_PROXY, every other
	// port by HTTPS_PROXY. Loopback destinations are never proxied.
	ModeSystem Mode = "system"
	// ModeCustom uses Settings.URL.
	ModeCustom Mode = "custom"
)

// Scheme is an HTTP authentication scheme.
type Scheme string

const (
	// SchemeNTLM is NTLMv2 under the scheme name NTLM (MS-NTHT).
	SchemeNTLM Scheme = "ntlm"
	// SchemeBasic is RFC 7617. It shows the password to whoever listens between
	// here and the proxy.
	SchemeBasic Scheme = "basic"
)

// strongestFirst is every scheme that there is.
var strongestFirst = []Scheme{SchemeNTLM, SchemeBasic}

// Settings is what a person configured under the key `proxy`. It prints without
// the URL's password.
type Settings struct {
	Mode Mode
	// URL is the proxy for ModeCustom: http://[user:password@]host[:port], port 80
	// unless it says another.
	URL string
	// Username is DOMAIN\user, user@domain or user; empty: the one in the URL.
	Username string
	// PasswordFile holds the password as its only line; empty: the password in
	// the URL.
	PasswordFile string
	// Auth lists the schemes that may be used; empty: all. The strongest one that
	// the proxy offers is used, whatever the order.
	Auth []Scheme
	// Bypass lists destinations that are dialled directly: host names, globs
	// (*.corp.example), IP addresses and prefixes (10.0.0.0/8). Addresses and
	// prefixes apply to destinations that are written as addresses; names are not
	// resolved for them.
	Bypass []string
	// StateDir is where refused credentials are remembered; empty: only until
	// this process ends.
	StateDir string
	// Environment looks up an environment variable for ModeSystem; nil: nothing
	// is set. Programs pass os.Getenv.
	Environment func(string) string
	// Control is called for each socket before it connects, as that of
	// [net.Dialer]; nil: nothing is.
	Control func(network, address string, raw syscall.RawConn) error
}

// printed is Settings as they may be seen.
type printed struct {
	Mode         Mode     `json:"mode"`
	URL          string   `json:"url"`
	Username     string   `json:"username"`
	PasswordFile string   `json:"password_file"`
	Auth         []Scheme `json:"auth"`
	Bypass       []string `json:"bypass"`
	StateDir     string   `json:"state_dir"`
}

func (s Settings) printed() printed {
	shown := s.URL
	if at := strings.LastIndexByte(shown, '@'); at >= 0 {
		shown = redacted + shown[at:]
	}
	return printed{s.Mode, shown, s.Username, s.PasswordFile, s.Auth, s.Bypass, s.StateDir}
}

// Format prints the settings without a password, whatever the verb.
func (s Settings) Format(w fmt.State, _ rune) {
	_, _ = io.WriteString(w, fmt.Sprintf("%+v", s.printed()))
}

// MarshalJSON is the settings without a password.
func (s Settings) MarshalJSON() ([]byte, error) { return json.Marshal(s.printed()) }

// LogValue is the settings without a password.
func (s Settings) LogValue() slog.Value { return slog.AnyValue(s.printed()) }

// upstreamURL reads a proxy's URL. key names where it came from; the value is
// never repeated, as it may hold a password.
func upstreamURL(key, value string) (*url.URL, error) {
	u, err := url.Parse(value)
	switch {
	case err != nil && strings.Contains(value, "@"):
		return nil, errConfig(key, "is not a URL", `write http://user:password@proxy.corp.example:8080, with \ as %5C, @ as %40 and : as %3A inside user and password`)
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, errConfig(key, "is not a URL", "write http://proxy.corp.example:8080")
	case u.Scheme != "http":
		return nil, errConfig(key, "has the scheme "+quote(u.Scheme), "only proxies that are spoken to by plain HTTP are supported: write http://proxy.corp.example:8080")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return nil, errConfig(key, "has something after the port", "write http://proxy.corp.example:8080")
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errConfig(key, "has an impossible port", "write http://proxy.corp.example:8080")
	}
	host, err := canonicalHost(u.Hostname())
	if err != nil {
		return nil, errConfig(key, "has an impossible host name", "write http://proxy.corp.example:8080")
	}
	return &url.URL{Scheme: u.Scheme, User: u.User, Host: net.JoinHostPort(host, port)}, nil
}

// schemes checks Settings.Auth.
func (s Settings) schemes() ([]Scheme, error) {
	for i, a := range s.Auth {
		if !slices.Contains(strongestFirst, a) {
			return nil, errConfig(fmt.Sprintf("proxy.auth[%d]", i), "is the unknown scheme "+quote(string(a)), "use ntlm, basic or both: auth: [ntlm, basic]")
		}
	}
	if len(s.Auth) == 0 {
		return strongestFirst, nil
	}
	have := make([]Scheme, 0, len(strongestFirst))
	for _, a := range strongestFirst {
		if slices.Contains(s.Auth, a) {
			have = append(have, a)
		}
	}
	return have, nil
}

// source says where the credential for a proxy comes from; nil: there is none.
func (s Settings) source(key string, u *url.URL) (*source, error) {
	name, inline, hasInline := s.Username, "", false
	if u.User != nil {
		if name == "" {
			name = u.User.Username()
		}
		if s.Username == "" || s.Username == u.User.Username() {
			inline, hasInline = u.User.Password()
		} else if s.Mode == ModeCustom {
			return nil, errConfig("proxy.username", "is not the user name in "+key, "give the user name in one place, best in proxy.username")
		}
	}
	if s.PasswordFile != "" && hasInline && s.Mode == ModeCustom {
		return nil, errConfig("proxy.password_file", "and "+key+" both give a password", "remove the one in "+key)
	}
	switch {
	case name == "" && s.PasswordFile == "" && !hasInline:
		return nil, nil
	case name == "":
		return nil, errConfig("proxy.username", "is missing", `there is a password but no user: write username: CORP\svc-ebbgate`)
	case s.PasswordFile == "" && !hasInline:
		return nil, errConfig("proxy.password_file", "is missing", "there is a user name but no password: write password_file: /etc/ebbgate/proxy-password")
	case len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == ':' }):
		return nil, errConfig("proxy.username", "is too long or holds a colon or a control character", `write DOMAIN\user, user@domain or user`)
	}
	src := &source{user: name, file: s.PasswordFile, turn: make(chan struct{}, 1)}
	if src.file != "" {
		return src, nil
	}
	if err := checkPassword(inline); err != nil {
		return nil, errConfig(key, "has a password that "+err.Error(), "use proxy.password_file")
	}
	src.last = &credential{user: name, password: newSecret(inline), version: 1}
	return src, nil
}
