package relay

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/ebbgate/ebbgate/tunnel"
)

// BenchmarkConnectDownload moves bytes from a store to a job at the relay's own
// ingress, everything in one process.
func BenchmarkConnectDownload(b *testing.B) {
	for _, c := range tunnel.Carriers {
		b.Run(string(c), func(b *testing.B) {
			r := startRelay(b, 0)
			token := r.serve(c)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			conn, err := net.Dial("tcp", r.ready.Connect)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "CONNECT echo.corp:0 HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n", base64.StdEncoding.EncodeToString([]byte("nightly:"+token)))
			in := bufio.NewReader(conn)
			if answer, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect}); err != nil || answer.StatusCode != 200 {
				b.Fatal(answer, err)
			}
			chunk := make([]byte, 1<<20)
			b.SetBytes(2 * int64(len(chunk))) // there and back
			b.ResetTimer()
			go func() {
				for range b.N {
					if _, err := conn.Write(chunk); err != nil {
						return
					}
				}
			}()
			if _, err := io.CopyN(io.Discard, in, int64(b.N)<<20); err != nil {
				b.Fatal(err)
			}
		})
	}
}
