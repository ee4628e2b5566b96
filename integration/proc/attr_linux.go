package proc

import "syscall"

// attr returns a copy of a with which the child dies with the thread that forks it.
func attr(a *syscall.SysProcAttr) *syscall.SysProcAttr {
	var b syscall.SysProcAttr
	if a != nil {
		b = *a
	}
	b.Pdeathsig = syscall.SIGKILL
	return &b
}
