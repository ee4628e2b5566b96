package demo

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"os"
)

// makeFile writes size bytes that do not repeat and do not compress.
func makeFile(ctx context.Context, path string, size int64) error {
	var seed [32]byte
	crand.Read(seed[:])
	random := rand.NewChaCha8(seed)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("demo: make data: %w", err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(left, int64(len(buf)))]
		random.Read(part)
		if _, err := f.Write(part); err != nil {
			return fmt.Errorf("demo: make data: %w", err)
		}
		left -= int64(len(part))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("demo: make data: %w", err)
	}
	return nil
}
