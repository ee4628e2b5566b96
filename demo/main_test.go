package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// fakeVariable says how this test binary behaves when it plays the ebbgate
// binary, and pidsVariable where its processes leave their process ids. Neither
// begins with EBBGATE_, which is kept away from children.
const (
	fakeVariable = "DEMO_TEST_FAKE"
	pidsVariable = "DEMO_TEST_PIDS"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(fakeProgram(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// fakeProgram is what stands in for the ebbgate binary.
func fakeProgram(args []string) int {
	EndWithParent()
	if dir := os.Getenv(pidsVariable); dir != "" {
		name := filepath.Join(dir, args[0]+"-"+strconv.Itoa(os.Getpid()))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			return 3
		}
	}
	switch fake := os.Getenv(fakeVariable); args[0] {
	case "demo": // what is to be killed
		if err := Run(context.Background(), Options{Program: os.Args[0], Size: 1, Stdout: os.Stdout}); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return 1
	case "relay":
		if fake == "relay dies at once" {
			fmt.Fprintln(os.Stderr, `relay: the state is damaged`)
			return 1
		}
		fmt.Println("something before")
		fmt.Println(`ready {"tls":"127.0.0.1:1","connect":"127.0.0.1:2"}`)
		if fake == "relay dies later" {
			return 1
		}
	case "gateway":
		switch fake {
		case "gateway refused":
			fmt.Fprintln(os.Stderr, "a warning")
			fmt.Fprintln(os.Stderr, `{"error":{"code":"gateway-exists","hop":"relay","message":"there is one","advice":"take another name"}}`)
			return 1
		case "gateway babbles":
			fmt.Println("not JSON")
			return 0
		}
	}
	select {} // until somebody ends this process
}
