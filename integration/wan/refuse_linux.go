package wan

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refuseCongestion has the kernel answer ENOENT where this thread, or what it forks, sets TCP_CONGESTION. The filter
// sees the low halves of the arguments, which is where ints are.
func refuseCongestion() error {
	const (
		number    = 0 // offsets in struct seccomp_data
		level     = 16 + 8
		option    = 16 + 16
		load      = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer    = unix.BPF_RET | unix.BPF_K
	)
	program := []unix.SockFilter{
		{Code: load, K: number},
		{Code: jumpEqual, K: unix.SYS_SETSOCKOPT, Jf: 5},
		{Code: load, K: level},
		{Code: jumpEqual, K: unix.IPPROTO_TCP, Jf: 3},
		{Code: load, K: option},
		{Code: jumpEqual, K: unix.TCP_CONGESTION, Jf: 1},
		{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOENT)},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return nil
}
