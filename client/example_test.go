package client_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/ebbgate/ebbgate/client"
)

// sameHost leaves the name of a store to the node that resolves it.
func sameHost(_ context.Context, host string) ([]string, error) { return []string{host}, nil }

// A connection to a store is a net.Conn. Its Report says what it did.
func ExampleDialer() {
	d := &client.Dialer{Relay: "relay.example.com", TokenFile: "/etc/copy/token", Run: "nightly"}
	defer d.Close()
	conn, err := d.Open(context.Background(), "tcp", "files.corp:8080")
	if err != nil {
		log.Fatal(err) // names the hop
	}
	defer conn.Close()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		conn.Reset() // not a whole copy
		log.Fatal(err)
	}
	fmt.Println(conn.Report().BytesRead)
}

// An upload is whole when the store has answered, or has ended its direction.
func ExampleConn_CloseWrite() {
	d := &client.Dialer{} // EBBGATE_RELAY, EBBGATE_JOB_TOKEN_FILE
	defer d.Close()
	conn, err := d.Open(context.Background(), "tcp", "corp/drop")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.Copy(conn, strings.NewReader("report")); err != nil {
		log.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		log.Fatal(err)
	}
	<-conn.Done()
	if err := conn.Report().Err(); err != nil {
		log.Fatal(err)
	}
}

// PostgreSQL by database/sql.
func ExampleDialer_databaseSQL() {
	d := &client.Dialer{Relay: "relay.example.com", TokenFile: "/etc/copy/token"}
	defer d.Close()
	config, err := pgx.ParseConfig("postgres://copy@pg.corp:5432/erp?sslmode=require")
	if err != nil {
		log.Fatal(err)
	}
	config.DialFunc, config.LookupFunc = d.DialContext, sameHost
	db := stdlib.OpenDB(*config)
	defer db.Close()
	row := db.QueryRowContext(context.Background(), "select max(changed) from parts")
	var changed sql.NullTime
	if err := row.Scan(&changed); err != nil {
		log.Fatal(err)
	}
	fmt.Println(changed.Time)
}

// PostgreSQL by pgx: a table into a file.
func ExampleDialer_pgx() {
	ctx := context.Background()
	d := &client.Dialer{Relay: "relay.example.com", TokenFile: "/etc/copy/token"}
	defer d.Close()
	config, err := pgx.ParseConfig("postgres://copy@pg.corp:5432/erp?sslmode=require")
	if err != nil {
		log.Fatal(err)
	}
	config.DialFunc, config.LookupFunc = d.DialContext, sameHost
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().CopyTo(ctx, os.Stdout, "copy parts to stdout with (format csv)"); err != nil {
		log.Fatal(err)
	}
}

// S3 by minio-go.
func ExampleDialer_minio() {
	ctx := context.Background()
	d := &client.Dialer{Relay: "relay.example.com", TokenFile: "/etc/copy/token"}
	defer d.Close()
	transport := &http.Transport{DialContext: d.DialContext}
	defer transport.CloseIdleConnections()
	objects, err := minio.New("objects.corp:9000", &minio.Options{
		Creds: credentials.NewEnvMinio(), Region: "us-east-1", Transport: transport,
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := objects.FGetObject(ctx, "export", "parts.csv", "parts.csv", minio.GetObjectOptions{}); err != nil {
		log.Fatal(err)
	}
}

// Anything else that takes a function that dials: here plain HTTP.
func ExampleDialer_http() {
	d := &client.Dialer{Relay: "relay.example.com", TokenFile: "/etc/copy/token"}
	defer d.Close()
	web := &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
	defer web.CloseIdleConnections()
	answer, err := web.Get("http://files.corp:8080/export.csv")
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		log.Fatal(err) // a broken copy never looks whole
	}
}
