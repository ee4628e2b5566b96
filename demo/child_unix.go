//go:build unix && !linux

package demo

import (
	"os"
	"syscall"
)

// childAttributes keeps the terminal's interrupts away from children, so that
// the demo alone decides in which order things stop. Children watch their
// standard input for the demo's death.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
