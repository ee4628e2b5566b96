package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// two starts a path with two relays on one PostgreSQL, and forward.
func two(ctx context.Context, s *site) (*path, error) {
	if s.noBinary != nil {
		return nil, &notRunError{s.noBinary.Error()}
	}
	p := &path{}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := p.two(ctx, s); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *path) two(ctx context.Context, s *site) error {
	database, err := p.postgres(ctx, s)
	if err != nil {
		return err
	}
	a, err := p.relay(ctx, s, rig.RelayOptions{
		Dir: filepath.Join(s.dir, "relay-a"), Hostname: s.near.addr, Postgres: database,
	})
	if err != nil {
		return err
	}
	if _, err := p.relay(ctx, s, rig.RelayOptions{
		Dir: filepath.Join(s.dir, "relay-b"), Hostname: s.near.second, Postgres: database, KeyOf: a,
	}); err != nil {
		return err
	}
	token, err := p.rest(ctx, s, "tls")
	if err != nil {
		return err
	}
	return p.forward(ctx, s, "tls", token)
}

// postgresPrograms is where Debian keeps PostgreSQL 15.
const postgresPrograms = "/usr/lib/postgresql/15/bin/"

// postgres starts a server near the relays and returns its address for them.
func (p *path) postgres(ctx context.Context, s *site) (string, error) {
	if _, err := exec.LookPath(postgresPrograms + "postgres"); err != nil {
		return "", &notRunError{"no PostgreSQL 15, which two relays share (integration/packages.txt)"}
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		return "", &notRunError{"no user postgres"}
	}
	dir, err := os.MkdirTemp("", "ebbgate-bench-postgres-")
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	p.after = append(p.after, func() { _ = os.RemoveAll(dir) })
	uid, err1 := strconv.Atoi(account.Uid)
	gid, err2 := strconv.Atoi(account.Gid)
	password := filepath.Join(dir, "password")
	err3 := os.WriteFile(password, []byte("bench"), 0o644)
	if err := errors.Join(err1, err2, err3, os.Chown(dir, uid, gid)); err != nil {
		return "", &notRunError{"PostgreSQL needs root: " + err.Error()}
	}
	data := filepath.Join(dir, "data")
	attr := as(uid, gid)
	if _, err := proc.Run(ctx, proc.Spec{Path: postgresPrograms + "initdb", Dir: dir, Attr: attr, Args: []string{
		"-D", data, "-U", "relay", "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync",
	}}); err != nil {
		return "", err
	}
	at := s.near
	at.addr = "127.0.0.1" // which is all that initdb lets in
	addrs, err := at.free(1)
	if err != nil {
		return "", err
	}
	host, port, _ := net.SplitHostPort(addrs[0])
	server, err := proc.Start(proc.Spec{
		Path: postgresPrograms + "postgres", Dir: dir, Attr: attr, Where: s.near.where,
		Args: []string{
			"-D", data, "-p", port, "-c", "listen_addresses=" + host, "-c", "unix_socket_directories=" + dir,
			"-c", "fsync=off", "-c", "dynamic_shared_memory_type=mmap", "-c", "shared_buffers=16MB",
		},
	})
	if err != nil {
		return "", err
	}
	p.add("postgres", server)
	database := "postgres://relay:bench@" + addrs[0] + "/postgres"
	for {
		_, err := proc.Run(ctx, proc.Spec{
			Path: postgresPrograms + "pg_isready", Args: []string{"-h", host, "-p", port}, Where: s.near.where,
		})
		if err == nil || ctx.Err() != nil {
			return database, err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return "", err
		}
	}
}
