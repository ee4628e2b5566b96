//go:build linux

package storms

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// program is the path of ebbgate.
var program string

func TestMain(m *testing.M) {
	oracle.ChildMain()
	idleMain()
	flag.Parse()
	if err := flag.Set("test.parallel", "2"); err != nil { // each storm has enough of a machine
		panic(err)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	path, remove, err := rig.Build(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	program = path
	code := m.Run()
	if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/ebbgate/ebbgate/integration/proc.(*Thread).run")); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
