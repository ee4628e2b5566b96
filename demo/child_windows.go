package demo

import (
	"os"
	"syscall"
)

// childAttributes keeps the console's interrupts away from children. Children
// watch their standard input for the demo's death.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate kills: there is no polite signal for a process without a console.
func terminate(p *os.Process) error { return p.Kill() }
