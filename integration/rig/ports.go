package rig

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// guardHost is a loopback address at which the ports that FreeAddr gave are held, so that no test of this machine gives
// one again.
const guardHost = "127.254.254.254"

var guards struct {
	sync.Mutex
	held []net.Listener // until the process ends
}

// FreeAddr gives an address of a loopback host at which nobody listens, on TCP or UDP. Its number is below those that
// the system itself chooses and is given once only, so it stays free while nobody has it.
func FreeAddr(host string) (string, error) {
	for range 1000 {
		number := strconv.Itoa(12000 + rand.IntN(20000))
		guard, err := net.Listen("tcp", net.JoinHostPort(guardHost, number))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		addr := net.JoinHostPort(host, number)
		if !isFree(addr) {
			if guard != nil {
				_ = guard.Close()
			}
			continue
		}
		if guard != nil { // systems other than Linux have one loopback address
			guards.Lock()
			guards.held = append(guards.held, guard)
			guards.Unlock()
		}
		return addr, nil
	}
	return "", fmt.Errorf("rig: no port is free for TCP and UDP at %s", host)
}

// FreePort is FreeAddr of 127.0.0.1 for a test.
func FreePort(t testing.TB) string {
	t.Helper()
	addr, err := FreeAddr("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func isFree(addr string) bool {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = tcp.Close() }()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return udp.Close() == nil
}
