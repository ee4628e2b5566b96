package oracle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	ChildMain()
	// The thread that forks children lives as long as the program.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/ebbgate/ebbgate/integration/proc.(*Thread).run"))
}

func TestContentIsAFunctionOfSeedAndOffset(t *testing.T) {
	whole := make([]byte, 1000)
	Fill(whole, 7, 0)
	if bytes.Equal(whole[:100], whole[100:200]) {
		t.Fatal("content repeats")
	}
	for range 1000 {
		from := rand.IntN(len(whole))
		part := make([]byte, rand.IntN(len(whole)-from+1))
		Fill(part, 7, int64(from))
		if !bytes.Equal(part, whole[from:from+len(part)]) {
			t.Fatalf("bytes %d to %d differ", from, from+len(part))
		}
	}
	other := make([]byte, len(whole))
	Fill(other, 8, 0)
	if bytes.Equal(other, whole) {
		t.Fatal("two seeds, one content")
	}
}

func TestVerifierNamesTheFirstWrongByte(t *testing.T) {
	const at, size = 3001, 9000
	good := make([]byte, size)
	Fill(good, 1, 0)
	flipped := bytes.Clone(good)
	flipped[at] ^= 1
	for name, test := range map[string]struct {
		data   []byte
		origin int64
	}{
		"flipped":    {flipped, -1},
		"bytes lost": {append(bytes.Clone(good[:at]), good[at+1234:]...), at + 1234},
		"repeated":   {append(bytes.Clone(good[:at]), good[at-777:]...), at - 777},
		"zeroes":     {append(bytes.Clone(good[:at]), make([]byte, 100)...), -1},
	} {
		t.Run(name, func(t *testing.T) {
			o := Drain(bytes.NewReader(test.data), 1, nil)
			if o.Kind != KindCorrupt || o.Honest(1, size) == nil {
				t.Fatalf("outcome %v", o)
			}
			v := NewVerifier(1)
			_, err := v.Write(test.data)
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("error %v", err)
			}
			if corrupt.Offset != at || (test.origin >= 0 && corrupt.Origin != test.origin) {
				t.Fatalf("got %+v, want offset %d, origin %d", corrupt, at, test.origin)
			}
		})
	}
}

func TestHonestKnowsALie(t *testing.T) {
	const size = 5000
	whole := Drain(NewReader(3, size), 3, nil)
	if err := whole.Honest(3, size); err != nil {
		t.Fatal(err)
	}
	short := Drain(NewReader(3, size-1), 3, nil)
	if short.Honest(3, size) == nil {
		t.Fatal("a clean end before the last byte passed")
	}
	if long := Drain(NewReader(3, size+1), 3, nil); long.Honest(3, size) == nil {
		t.Fatal("a byte too many passed")
	}
	cut := Drain(io.MultiReader(NewReader(3, 100), errorReader{}), 3, nil)
	if err := cut.Honest(3, size); err != nil || cut.Complete() || cut.Bytes != 100 {
		t.Fatalf("%v: %v", cut, err)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("cut") }

func TestStoreObeys(t *testing.T) {
	store, err := StartStore(t.Context(), nil, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Kill()
	for round := range 3 {
		for _, s := range Scenarios(round) {
			t.Run(fmt.Sprint(s.Name, " ", round), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				conn := dial(t, store.Addr())
				if err := s.Run(ctx, conn, store); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

func TestKilledStoreResets(t *testing.T) {
	for range 5 {
		store, err := StartStore(t.Context(), nil, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		script := Script{Seed: 1, Send: 1 << 40, End: EndFIN}
		job := Job{Script: script, Observe: func(n int64) {
			if n > 1<<20 {
				_ = store.Signal(os.Kill)
			}
		}}
		outcome, _ := job.Run(dial(t, store.Addr()))
		if outcome.Kind != KindReset {
			t.Fatalf("the job saw: %v", outcome)
		}
		<-store.Done()
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func BenchmarkFill(b *testing.B) {
	buf := make([]byte, block)
	b.SetBytes(block)
	for i := range b.N {
		Fill(buf, 1, int64(i)*block)
	}
}

func BenchmarkDrain(b *testing.B) {
	b.SetBytes(16 << 20)
	for range b.N {
		if o := Drain(NewReader(1, 16<<20), 1, nil); !o.Complete() {
			b.Fatal(o)
		}
	}
}

// TestScenariosCatchAPipe plays the scenarios over the usual pipe, which ends both directions when one ends and takes
// every end for a good one: the scenarios must notice.
func TestScenariosCatchAPipe(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	store, err := StartStore(ctx, nil, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Kill()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var pipes sync.WaitGroup
	defer pipes.Wait()
	defer func() { _ = ln.Close() }()
	pipes.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", store.Addr())
			if err != nil {
				_ = near.Close()
				continue
			}
			pipes.Go(func() { pipe(near, far) })
			pipes.Go(func() { pipe(far, near) })
		}
	})
	passed := make(map[string]bool)
	for _, s := range Scenarios(0) {
		limited, stop := context.WithTimeout(ctx, 2*time.Second)
		passed[s.Name] = s.Run(limited, dial(t, ln.Addr().String()), store) == nil
		stop()
	}
	for _, name := range []string{"store half-closes first", "job half-closes first", "store resets"} {
		if passed[name] {
			t.Errorf("%s: a pipe passes", name)
		}
	}
}

func pipe(dst, src net.Conn) {
	_, _ = io.Copy(dst, src)
	_ = dst.Close()
	_ = src.Close()
}
