package proxycfg

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

// Settings is what a person configured under the key `proxy`.
type Settings struct {
	Mode Mode
	// URL is the proxy for ModeCustom: http://[user:password@]host:port.
	URL string
	// Username is DOMAIN\user, user@domain or user; empty: the one in the URL.
	Username string
	// PasswordFile holds the password as its only line.
	PasswordFile string
	// Auth lists the schemes that may be used; empty: all. The strongest one that
	// the proxy offers is used, whatever the order.
	Auth []Scheme
	// Bypass lists destinations that are dialled directly: host names, globs
	// (*.corp.example), IP addresses and prefixes (10.0.0.0/8).
	Bypass []string
	// StateDir is where refused credentials are remembered; empty: only until
	// this process ends.
	StateDir string
	// Environment looks up an environment variable for ModeSystem; nil: nothing
	// is set. Programs pass os.Getenv.
	Environment func(string) string
}
