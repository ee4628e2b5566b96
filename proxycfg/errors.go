package proxycfg

// Error is every error of this package: a configuration error of [New], or what
// went wrong on the way to or through a proxy.
type Error struct {
	code, hop, message, advice string

	// Key names the configuration key at fault, if it is one: proxy.bypass[2].
	Key string
	// Proxy is the proxy's host:port; empty: none was involved.
	Proxy string
	// StatusCode is what the proxy answered; 0: it did not come so far.
	StatusCode int

	err error
}

// Error tells what was seen.
func (e *Error) Error() string { return e.message }

// Code names the error for programs, in kebab case.
func (e *Error) Code() string { return e.code }

// Hop names the hop that failed: config, dns, tcp, proxy or proxy-auth.
func (e *Error) Hop() string { return e.hop }

// Advice says what to do about it.
func (e *Error) Advice() string { return e.advice }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }
