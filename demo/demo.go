package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// DefaultSize is how many bytes a made file has.
const DefaultSize = 256 << 20

// Options is what `ebbgate demo` was asked to do.
type Options struct {
	// File is the file that is copied both ways; empty: random ones are made.
	File string
	// Size is how many bytes a made file has; 0: DefaultSize.
	Size int64
	// JSON prints one [Result] at the end and nothing else on Stdout.
	JSON bool
	// Program is the ebbgate binary to run; empty: the one that runs now.
	Program string
	// Stdout takes what is shown; nil discards. Progress is drawn where it is a
	// terminal.
	Stdout io.Writer
}

// Result is what `ebbgate demo --json` prints.
type Result struct {
	// OK is true where both copies equal their sources and every byte of them
	// went through the proxy.
	OK bool `json:"ok"`
	// Carrier is what the connector's session travels on, as the relay says.
	Carrier string `json:"carrier"`
	// ProxyAuth is what the connector's tunnels proved, as the proxy says.
	ProxyAuth string `json:"proxy_auth"`
	Read      Copy   `json:"read"`
	Write     Copy   `json:"write"`
	// RoundTripMS is from the job to the store and back, in milliseconds.
	RoundTripMS float64 `json:"round_trip_ms"`
	// ProxyTunnels and ProxyBytes are what the proxy counted.
	ProxyTunnels int64 `json:"proxy_tunnels"`
	ProxyBytes   int64 `json:"proxy_bytes"`
	// Error says why OK is false.
	Error string `json:"error,omitempty"`
}

// Run runs the demo until it is done or ctx ends; callers end ctx at an
// interrupt. When it returns, everything that it started has ended and
// everything that it wrote is removed. Its error is also in the JSON object.
func Run(ctx context.Context, opt Options) error {
	if opt.Stdout == nil {
		opt.Stdout = io.Discard
	}
	if opt.Size == 0 {
		opt.Size = DefaultSize
	}
	result, err := run(ctx, opt)
	if err != nil {
		result.OK, result.Error = false, err.Error()
	}
	if opt.JSON {
		out, jerr := json.Marshal(result)
		if jerr == nil {
			_, jerr = fmt.Fprintf(opt.Stdout, "%s\n", out)
		}
		err = errors.Join(err, jerr)
	}
	return err
}

func run(ctx context.Context, opt Options) (result Result, err error) {
	if opt.Program == "" {
		if opt.Program, err = os.Executable(); err != nil {
			return result, fmt.Errorf("demo: find this program: %w", err)
		}
	}
	if opt.File != "" {
		info, err := os.Stat(opt.File)
		if err != nil {
			return result, &ConfigError{Message: fmt.Sprintf("--file: %v", err)}
		}
		if !info.Mode().IsRegular() {
			return result, &ConfigError{Message: fmt.Sprintf("--file: %s is not a regular file", opt.File)}
		}
	}
	dir, err := os.MkdirTemp("", "ebbgate-demo-")
	if err != nil {
		return result, fmt.Errorf("demo: %w", err)
	}
	p := &path{screen: newScreen(opt), program: program{path: opt.Program, dir: dir}, dir: dir}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	defer func() {
		if rerr := p.close(); err == nil && rerr != nil {
			err = rerr
		}
	}()
	for _, step := range []func(Options) error{p.startRelay, p.startNetwork, p.startConnector, p.copyBothWays} {
		if err = step(opt); err != nil {
			break
		}
	}
	// What ended the path explains more than what it broke.
	if cause := context.Cause(p.ctx); err != nil && cause != nil {
		err = cause
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("demo: interrupted: %w", ctx.Err())
	}
	if err == nil {
		p.show()
		err = p.verdict()
	}
	p.result.OK = err == nil
	return p.result, err
}

// ConfigError is a wrong option.
type ConfigError struct{ Message string }

func (e *ConfigError) Error() string { return "demo: " + e.Message }

// Code is demo-option.
func (e *ConfigError) Code() string { return "demo-option" }

// Hop is config.
func (e *ConfigError) Hop() string { return "config" }

// Advice says what to do.
func (e *ConfigError) Advice() string { return "name a regular file that this user may read" }

// ResultError is a demo that ran to its end and did not show what it should.
type ResultError struct{ Message string }

func (e *ResultError) Error() string { return "demo: " + e.Message }

// Code is demo-result.
func (e *ResultError) Code() string { return "demo-result" }

// Hop is unknown.
func (e *ResultError) Hop() string { return "" }

// Advice says what to do.
func (e *ResultError) Advice() string { return "this is a fault of ebbgate: please report it" }

// verdict says what is wrong with the result.
func (p *path) verdict() error {
	r := p.result
	switch {
	case !r.Read.Equal():
		return &ResultError{"the copy out of the store differs from its source"}
	case !r.Write.Equal():
		return &ResultError{"the copy into the store differs from its source"}
	case r.ProxyAuth != proxyAuthNTLM:
		return &ResultError{"the connector did not authenticate at the proxy"}
	case p.passed.Sent < r.Read.Bytes || p.passed.Received < r.Write.Bytes:
		return &ResultError{fmt.Sprintf("only %d of %d and %d of %d bytes went through the proxy",
			p.passed.Sent, r.Read.Bytes, p.passed.Received, r.Write.Bytes)}
	case r.Carrier == "":
		return &ResultError{"the relay does not know the node's carrier"}
	}
	return nil
}
