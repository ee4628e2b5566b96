package postgrestest

import (
	"errors"
	"syscall"

	"github.com/shirou/gopsutil/v4/process"
)

func as(uid, gid uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}, Pdeathsig: syscall.SIGQUIT}
}

// Freeze stops every process of the server: connections stay open and nobody
// answers.
func (s *Server) Freeze() error { return s.signal((*process.Process).Suspend) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() error { return s.signal((*process.Process).Resume) }

func (s *Server) signal(send func(*process.Process) error) error {
	first, err := process.NewProcess(int32(s.cmd.Process.Pid))
	if err != nil {
		return err
	}
	if err := send(first); err != nil { // it forks no more
		return err
	}
	children, err := first.Children()
	if errors.Is(err, process.ErrorNoChildren) {
		return nil
	}
	for _, c := range children {
		err = errors.Join(err, send(c))
	}
	return err
}
