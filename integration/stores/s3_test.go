//go:build linux

package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3afero"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/spf13/afero"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// s3Env makes this program an S3 server: its value is the address and the folder, separated by a blank.
const s3Env = "EBBGATE_TEST_S3"

// s3Main serves S3 until it is killed, if this process was started for that.
func s3Main() {
	var addr, dir string
	if n, _ := fmt.Sscan(os.Getenv(s3Env), &addr, &dir); n == 0 {
		return
	}
	backend, err := s3afero.MultiBucket(afero.NewBasePathFs(afero.NewOsFs(), dir))
	if err == nil {
		err = seed(backend)
	}
	if err == nil {
		err = http.ListenAndServe(addr, gofakes3.New(backend).Server())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// seed makes the object that is copied while something is killed.
func seed(backend gofakes3.Backend) error {
	if _, err := backend.HeadObject(bucket, "big"); err == nil {
		return nil
	}
	_, err := backend.PutObject(bucket, "big", map[string]string{}, oracle.NewReader(1, huge), huge, nil)
	return err
}

// s3 is a running S3 server.
type s3 struct {
	*daemon
	dir string
}

const bucket = "bucket"

func startS3(ctx context.Context, t *testing.T, addr, dir string) *s3 {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "buckets", bucket), 0o700); err != nil {
		t.Fatal(err)
	}
	return &s3{dir: dir, daemon: startDaemon(ctx, t, addr, proc.Spec{Name: "gofakes3", Path: self, Env: []string{s3Env + "=" + addr + " " + dir}})}
}

// object is the path of an object's file.
func (s *s3) object(name string) string { return filepath.Join(s.dir, "buckets", bucket, name) }

// minioClient is a client that reaches an endpoint by a dialer.
func minioClient(t *testing.T, endpoint string, dial func(context.Context, string, string) (net.Conn, error)) *minio.Client {
	t.Helper()
	transport := &http.Transport{DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := minio.New(endpoint, &minio.Options{
		Creds: credentials.NewStaticV4("EXAMPLE", "EXAMPLE", ""), Region: "us-east-1", Transport: transport, MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestS3 copies with rclone by SOCKS 5 and with minio-go by CONNECT and by a forward: up in parts, down, and parts of it.
func TestS3(t *testing.T) {
	ctx := need(t, map[string]string{"rclone": "rclone"})
	server := startS3(ctx, t, freeAddr(t), t.TempDir())
	s := newStage(ctx, t, "S3", "tls", map[string]string{"objects": server.addr})
	const size = 48<<20 + 11
	for i := range 3 {
		s.write(t, fmt.Sprintf("export/object-%d", i), uint64(i), size/int64(1+10*i))
	}
	s.play(ctx, t)
	for i := range 3 {
		n := size / int64(1+10*i)
		verify(t, server.object(fmt.Sprintf("export/object-%d", i)), uint64(i), n)
		verify(t, filepath.Join(s.dir, "import", fmt.Sprintf("object-%d", i)), uint64(i), n)
	}

	const port = "9000"
	name := "objects." + gateway + ":" + s.real[port]
	sizes := map[string]int64{"connect": 64<<20 + 7, "dialer": 20<<20 + 7, "forward": 20<<20 + 7}
	ingress := rig.Ingress{Addr: relay.Connect, Job: job, Token: token}
	for way, c := range map[string]*minio.Client{
		"connect": minioClient(t, name, func(ctx context.Context, _, addr string) (net.Conn, error) { return ingress.Dial(ctx, addr) }),
		"dialer":  minioClient(t, name, newDialer(t).DialContext),
		"forward": minioClient(t, s.port("9001"), nil),
	} {
		t.Run(way, func(t *testing.T) { roundTrip(ctx, t, c, server, way, sizes[way]) })
	}

	const (
		rclone = `export HTTP_PROXY="socks5://nightly-copy:$(cat token)@127.0.0.1:1080"
exec rclone --config rclone.conf --retries 1 --low-level-retries 1 `
		reading = rclone + "cat corp:bucket/big"
		copying = rclone + "--bwlimit 10M --multi-thread-streams 0 copy corp:bucket/big "
	)
	s.cut(ctx, t, "connector killed", reading, huge, s.crash(ctx, t))
	s.cutFile(ctx, t, "connector killed", copying+"slow", "slow/big*", s.crash(ctx, t))
	s.cut(ctx, t, "server killed", reading, huge, server.kill)
	server = startS3(ctx, t, server.addr, server.dir)
	s.cutFile(ctx, t, "server killed", copying+"slower", "slower/big*", server.kill)
}

// roundTrip puts an object in parts, gets it and a range of it.
func roundTrip(ctx context.Context, t *testing.T, client *minio.Client, server *s3, name string, size int64) {
	t.Helper()
	const seed = 77
	put, err := client.PutObject(ctx, bucket, name, oracle.NewReader(seed, size), -1, minio.PutObjectOptions{PartSize: 5 << 20, DisableContentSha256: true})
	if err != nil {
		t.Fatal(err)
	}
	if put.Size != size {
		t.Errorf("put %d bytes, want %d", put.Size, size)
	}
	verify(t, server.object(name), seed, size)
	object, err := client.GetObject(ctx, bucket, name, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = object.Close() }()
	if got := oracle.Drain(object, seed, nil); got.Bytes != size || !got.Complete() {
		t.Errorf("got: %v", got)
	}
	var options minio.GetObjectOptions
	from, to := size/3, size/2
	if err := options.SetRange(from, to); err != nil {
		t.Fatal(err)
	}
	part, err := client.GetObject(ctx, bucket, name, options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = part.Close() }()
	got, err := io.ReadAll(part)
	want := make([]byte, to-from+1)
	oracle.Fill(want, seed, from)
	if err != nil || string(got) != string(want) {
		t.Errorf("of a range of %d bytes came %d, or wrong ones: %v", len(want), len(got), err)
	}
	var said minio.ErrorResponse
	if _, err := client.StatObject(ctx, bucket, "absent", minio.StatObjectOptions{}); !errors.As(err, &said) || said.StatusCode != http.StatusNotFound {
		t.Errorf("an object that is not there: %v", err)
	}
}
