//go:build !unix

package bundle

import "net"

// Prompt writes to a TCP connection without waiting, where the platform can.
type Prompt struct{}

// NewPrompt gives nil: here nothing is written without waiting.
func NewPrompt(net.Conn) *Prompt { return nil }

// WriteNow is never called.
func (*Prompt) WriteNow([]byte) (int, error) { return 0, nil }
