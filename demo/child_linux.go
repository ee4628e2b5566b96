package demo

import (
	"os"
	"syscall"
)

// childAttributes keeps the terminal's interrupts away from children, so that
// the demo alone decides in which order things stop, and has the kernel kill
// them should the demo be killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
