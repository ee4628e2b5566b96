//go:build linux

package corporate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/lab"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// minDump is the least size of the dump.
const minDump = 200 << 20

// fill makes a database whose dump is longer than minDump and does not repeat itself.
const fill = `
create table parts (id bigint primary key, name text not null, price numeric(12,2), made timestamptz, blob bytea);
insert into parts select i, 'Teil ' || md5(i::text) || ' ä€😀', i * 1.07, '2020-01-01 UTC'::timestamptz + i * interval '1 second',
  decode(md5(i::text) || md5((i+1)::text) || md5((i+2)::text) || md5((i+3)::text) || md5((i+4)::text), 'hex')
  from generate_series(1, 900000) i;
create table empty (id int);
create view dear as select id, name from parts where price > 100000;
`

var filled sync.Once

// filledSource fills the source once.
func filledSource(ctx context.Context, t *testing.T) {
	t.Helper()
	filled.Do(func() {
		run1(ctx, t, network.Corp, source.Env("127.0.0.1", source.Port), "", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", fill)
	})
}

// dump dumps a database into a file and returns the file's size.
func dump(ctx context.Context, t *testing.T, h *lab.Host, env []string, file string) int64 {
	t.Helper()
	run1(ctx, t, h, env, file, "pg_dump", "--restrict-key=comparable", "--no-owner")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestPostgresThroughNTLM dumps a database through the NTLM proxy on carrier tls, restores it elsewhere, and compares.
func TestPostgresThroughNTLM(t *testing.T) {
	ctx := need(t, 3*time.Minute)
	c := configure(ctx, t, domain(lab.NTLM), "tls")
	n := c.start(ctx, t)
	if n.Carrier != "tls" || c.connector.ProxyUse != network.Squid(lab.NTLM).Addr {
		t.Fatalf("the node is online by carrier %q and proxy %q", n.Carrier, c.connector.ProxyUse)
	}
	copyDatabase(ctx, t, c, "tls")
	if n, err := relay.Await(ctx, c.name, node, func(n rig.Node) bool { return n.Proxy != "" }); err != nil || n.Proxy != c.connector.ProxyUse {
		t.Errorf("the relay knows of the node: %+v, %v", n, err)
	}
	seen, err := network.Authentications(lab.User)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range seen {
		if a.Status != "NT_STATUS_OK" {
			t.Errorf("the DC saw %+v", a)
		}
	}
	if len(seen) == 0 {
		t.Error("the DC was never asked")
	}
}

// TestPostgresOverQUIC does the same without a proxy on carrier quic.
func TestPostgresOverQUIC(t *testing.T) {
	ctx := need(t, 3*time.Minute)
	deny, err := network.AllowUDP(ctx, 443)
	if err != nil {
		t.Fatal(err)
	}
	hide, err := network.RevealRelay()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := deny(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
		if err := hide(); err != nil {
			t.Error(err)
		}
	}()
	c := configure(ctx, t, rig.Proxy{}, "quic")
	if n := c.start(ctx, t); n.Carrier != "quic" || c.connector.ProxyUse != "" {
		t.Fatalf("the node is online by carrier %q and proxy %q", n.Carrier, c.connector.ProxyUse)
	}
	copyDatabase(ctx, t, c, "quic")
}

// copyDatabase asks and dumps the source through a forward, restores the dump in the cloud, and compares the dumps of
// the source made without a tunnel, through it, and of the copy.
func copyDatabase(ctx context.Context, t *testing.T, c *company, carrier string) {
	t.Helper()
	filledSource(ctx, t)
	host, portText := c.forward(ctx, t, "erp-sql", carrier)
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	tunnel := source.Env(host, port)
	const question = "select count(*), sum(length(blob)), max(name) from parts"
	if got := run1(ctx, t, network.Cloud, tunnel, "", "psql", "-Atc", question); !bytes.HasPrefix([]byte(got), []byte("900000|72000000|Teil ")) {
		t.Fatalf("psql: %q", got)
	}
	dir := t.TempDir()
	direct, tunneled, again := filepath.Join(dir, "direct"), filepath.Join(dir, "tunneled"), filepath.Join(dir, "restored")
	size := dump(ctx, t, network.Corp, source.Env("127.0.0.1", source.Port), direct)
	if size < minDump {
		t.Fatalf("the dump has only %d bytes", size)
	}
	began := time.Now()
	dump(ctx, t, network.Cloud, tunnel, tunneled)
	took := time.Since(began)
	t.Logf("%s: dumped %d bytes in %v, %.0f MB/s", carrier, size, took.Round(time.Millisecond), float64(size)/1e6/took.Seconds())
	sameFile(t, direct, tunneled)
	target := restored.Env("127.0.0.1", restored.Port)
	run1(ctx, t, network.Cloud, target, "", "psql", "-q", "-c", "drop database if exists copy", "-c", "create database copy")
	target = append(target, "PGDATABASE=copy")
	run1(ctx, t, network.Cloud, target, "", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.DevNull, "-f", tunneled)
	dump(ctx, t, network.Cloud, target, again)
	sameFile(t, direct, again)
}

// sameFile compares two files byte by byte.
func sameFile(t *testing.T, a, b string) {
	t.Helper()
	if da, db := digestOf(t, a), digestOf(t, b); da != db {
		t.Errorf("%s and %s differ: %s, %s", filepath.Base(a), filepath.Base(b), da, db)
	}
}

// digestOf returns a file's size and SHA-256.
func digestOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes, %x", n, h.Sum(nil))
}
