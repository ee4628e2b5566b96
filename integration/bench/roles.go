package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
)

// roles are what a re-executed bench can be.
var roles = map[string]func(context.Context) error{
	"store":      storeRole,
	"naive-near": naiveNearRole,
	"naive-far":  naiveFarRole,
	"load":       loadRole,
}

// ready is what a server prints when it listens.
type ready struct {
	Addr string `json:"addr"`
}

// startRole starts this program again in a role, somewhere. Input is given to it as JSON.
func startRole(ctx context.Context, at place, role string, input any) (*proc.Process, string, error) {
	spec, err := roleSpec(at, role, input)
	if err != nil {
		return nil, "", err
	}
	p, err := proc.Start(spec)
	if err != nil {
		return nil, "", err
	}
	var r ready
	if err := p.Ready(ctx, &r); err != nil {
		p.Kill()
		return nil, "", err
	}
	return p, r.Addr, nil
}

func roleSpec(at place, role string, input any) (proc.Spec, error) {
	self, err := os.Executable()
	if err != nil {
		return proc.Spec{}, fmt.Errorf("bench: %w", err)
	}
	body, err := json.Marshal(input)
	if err != nil {
		return proc.Spec{}, fmt.Errorf("bench: %w", err)
	}
	return proc.Spec{
		Name: role, Path: self, Env: []string{roleEnv + "=" + role, inputEnv + "=" + string(body)}, Where: at.where,
	}, nil
}

// inputEnv carries a role's input.
const inputEnv = "EBBGATE_BENCH_INPUT"

func roleInput(v any) error {
	if err := json.Unmarshal([]byte(os.Getenv(inputEnv)), v); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

// serve prints the ready line and serves each connection of a new port of an address.
func serve(ctx context.Context, addr string, each func(net.Conn)) error {
	ln, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	body, err := json.Marshal(ready{Addr: ln.Addr().String()})
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	fmt.Printf("ready %s\n", body)
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		go each(conn)
	}
}

// storeInput is what the store needs to know.
type storeInput struct {
	Listen string // its address, without a port
}

func storeRole(ctx context.Context) error {
	var in storeInput
	if err := roleInput(&in); err != nil {
		return err
	}
	return serve(ctx, in.Listen, serveStore)
}

// naiveInput is what the two ends of the naive pipe need to know.
type naiveInput struct {
	Listen           string // address without a port
	Next             string // where to connect to
	Certificate, Key []byte // DER
}

func newNaiveInput() (naiveInput, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return naiveInput{}, fmt.Errorf("bench: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"naive"},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return naiveInput{}, fmt.Errorf("bench: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return naiveInput{}, fmt.Errorf("bench: %w", err)
	}
	return naiveInput{Certificate: der, Key: pkcs8}, nil
}

// naiveNearRole is the pipe's end at the job: plain TCP in, TLS out.
func naiveNearRole(ctx context.Context) error {
	var in naiveInput
	if err := roleInput(&in); err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(in.Certificate)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	config := &tls.Config{RootCAs: roots, ServerName: "naive", MinVersion: tls.VersionTLS13}
	return serve(ctx, in.Listen, func(near net.Conn) {
		far, err := tls.Dial("tcp", in.Next, config)
		if err != nil {
			_ = near.Close()
			return
		}
		pipe(near, far)
	})
}

// naiveFarRole is the pipe's end at the store: TLS in, plain TCP out.
func naiveFarRole(ctx context.Context) error {
	var in naiveInput
	if err := roleInput(&in); err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(in.Key)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{in.Certificate}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS13,
	}
	return serve(ctx, in.Listen, func(near net.Conn) {
		far, err := net.Dial("tcp", in.Next)
		if err != nil {
			_ = near.Close()
			return
		}
		pipe(tls.Server(near, config), far)
	})
}

// pipe copies both ways with io.Copy, as anyone would write it.
func pipe(a, b net.Conn) {
	var both sync.WaitGroup
	copyTo := func(dst, src net.Conn) {
		_, _ = io.Copy(dst, src)
		if c, ok := dst.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	}
	both.Go(func() { copyTo(a, b) })
	both.Go(func() { copyTo(b, a) })
	both.Wait()
	_ = errors.Join(a.Close(), b.Close())
}
