//go:build unix

package faults

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// full tells whether faults last as long as they are promised to be outlived.
var full = os.Getenv("EBBGATE_FAULTS") == "full"

// long is how long a fault lasts.
func long(short, promised time.Duration) time.Duration {
	if full {
		return promised
	}
	return short
}

// seed is where the test's random numbers begin. A test that fails shows it.
func seed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("EBBGATE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("again with EBBGATE_SEED=%d", seed)
	return seed
}
