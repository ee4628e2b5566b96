package connector

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Failure is what went wrong, for people and programs.
type Failure struct {
	Time    time.Time `json:"time"`
	Code    string    `json:"code"`
	Hop     string    `json:"hop"`
	Message string    `json:"message"`
	Advice  string    `json:"advice"`
}

// failureOf describes an error. One that names no hop is the node's own.
func failureOf(err error, now time.Time) *Failure {
	f := &Failure{Time: now, Code: "internal", Hop: "node", Message: err.Error()}
	var s spoken
	if errors.As(err, &s) {
		f.Code, f.Hop, f.Message, f.Advice = s.Code(), s.Hop(), s.Error(), s.Advice()
	}
	return f
}

// The socket speaks lines: a question, and the answer as one line of JSON. It is
// reachable for the connector's own user alone.
const (
	questionStatus = "status"
	questionReload = "reload"
	maxQuestion    = 64      // bytes
	maxAnswer      = 1 << 20 // bytes
	statusTimeout  = 5 * time.Second
	maxAsking      = 16 // at once
)

// statusServer answers on the status socket.
type statusServer struct {
	report func() *Report
	reload func(context.Context) (*Changes, error)
	logger *slog.Logger
}

// maxSocketPath is how long a Unix socket's path may be everywhere.
const maxSocketPath = 103

func statusPath(dir string) (string, error) {
	path := filepath.Join(dir, fileStatus)
	if len(path) > maxSocketPath {
		return "", failure("status-unavailable", "config", nil, "choose a shorter state_dir", "the path of the status socket has more than %d bytes: %s", maxSocketPath, path)
	}
	return path, nil
}

// listenStatus makes the socket in place of one that a dead connector left; the
// caller holds the directory's lock.
func listenStatus(dir string) (net.Listener, error) {
	path, err := statusPath(dir)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("connector: status: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("connector: status: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("connector: status: %w", err)
	}
	return ln, nil
}

// run serves ln until ctx ends, and closes it.
func (s *statusServer) run(ctx context.Context, ln net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	defer ln.Close()
	asking := make(chan struct{}, maxAsking)
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			s.logger.Warn("status socket", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second): // out of descriptors, most likely
			}
			continue
		}
		select {
		case asking <- struct{}{}:
			wg.Go(func() {
				defer func() { <-asking }()
				s.answer(ctx, conn)
			})
		default:
			_ = conn.Close()
		}
	}
}

func (s *statusServer) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(statusTimeout))
	question, err := bufio.NewReader(io.LimitReader(conn, maxQuestion)).ReadString('\n')
	if err != nil {
		return
	}
	switch question {
	case questionStatus + "\n":
		_ = json.NewEncoder(conn).Encode(s.report())
	case questionReload + "\n":
		var a reloadAnswer
		_ = conn.SetDeadline(time.Time{}) // the reload has its own
		changes, err := s.reload(ctx)
		if a.Changes = changes; err != nil {
			a.Error = failureOf(err, time.Now().UTC())
		}
		_ = conn.SetDeadline(time.Now().Add(statusTimeout))
		_ = json.NewEncoder(conn).Encode(a)
	default:
		_, _ = io.WriteString(conn, "{}\n")
	}
}

// reloadAnswer is the answer to questionReload: one of the two.
type reloadAnswer struct {
	Changes *Changes `json:"changes,omitempty"`
	Error   *Failure `json:"error,omitempty"`
}

// Status asks the connector that runs on stateDir how it is.
func Status(ctx context.Context, stateDir string) (*Report, error) {
	r := new(Report)
	if err := ask(ctx, stateDir, questionStatus, statusTimeout, r); err != nil {
		return nil, err
	}
	return r, nil
}

// Reload has the connector that runs on stateDir read its configuration again,
// and tells what changed. Where it refuses the configuration, the one before
// stays in force, and the error is what the connector found.
func Reload(ctx context.Context, stateDir string) (*Changes, error) {
	var a reloadAnswer
	err := ask(ctx, stateDir, questionReload, reloadTimeout+announceTimeout+statusTimeout, &a)
	switch {
	case err != nil:
		return nil, err
	case a.Error != nil:
		return nil, &Error{code: a.Error.Code, hop: a.Error.Hop, message: a.Error.Message, advice: a.Error.Advice}
	case a.Changes == nil:
		return nil, failure("reload-unavailable", "node", nil, "restart it", "the connector on %s does not know how to read its configuration again", stateDir)
	}
	return a.Changes, nil
}

// ask asks the connector that runs on stateDir.
func ask(ctx context.Context, stateDir, question string, timeout time.Duration, answer any) error {
	path, err := statusPath(stateDir)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return failure("status-unavailable", "config", err, "ask as the user that the connector runs as, or as root", "this user may not ask the connector at %s", path)
	case err != nil:
		return failure("connector-not-running", "node", err, "start it: ebbgate connector run --config connector.yaml; is state_dir the one that it uses?",
			"no connector runs on the state directory %s", stateDir)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	_, err = io.WriteString(conn, question+"\n")
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxAnswer)).Decode(answer)
	}
	if err != nil {
		return failure("status-unavailable", "node", err, "try again; if it stays so, restart the connector", "the connector on %s does not answer: %v", stateDir, err)
	}
	return nil
}
