package bundle

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowReaders: jobs that read nothing take the memory of their own streams, and no other stream waits for them, though
// the far end grants more credit than this one has memory.
func TestSlowReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 0, open)
		p.ingress.cfg.Pool, p.node.cfg.Pool = NewPool(256<<20), NewPool(8<<20)
		p.lane(true)
		p.lane(false)
		var slow []carried
		var writing sync.WaitGroup
		for range 100 {
			c := p.carry(stores)
			slow = append(slow, c)
			writing.Go(func() { _, _ = c.store.Write(content(1, 512<<10)); _ = c.store.CloseWrite() })
		}
		synctest.Wait()
		time.Sleep(time.Minute)
		began := time.Now()
		defer time.AfterFunc(time.Hour, func() { p.ingress.Close(CodeInternal) }).Stop()
		for i := range 20 {
			c := p.carry(stores)
			body := content(uint64(i), 1<<20)
			writing.Go(func() { _, _ = c.store.Write(body); _ = c.store.CloseWrite(); _ = c.job.CloseWrite() })
			if got, err := io.ReadAll(c.job); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("a stream beside them: %d bytes, %v", len(got), err)
			}
		}
		t.Logf("20 MiB beside them within %v", time.Since(began))
		for i, c := range slow {
			_ = c.job.CloseWrite()
			if got, err := io.ReadAll(c.job); err != nil || len(got) != 512<<10 {
				t.Errorf("stream %d, when it was read: %d bytes, %v", i, len(got), err)
			}
		}
		writing.Wait()
		p.settled()
	})
}
