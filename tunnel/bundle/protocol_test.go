package bundle

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func TestProtocolPageAgreesWithTheCode(t *testing.T) {
	raw, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	t.Run("frames", func(t *testing.T) {
		rows := regexp.MustCompile(`(?m)^\| (\d+) \| ([A-Z_]+) \| \w+ \| .* \| (\d+) \| (\d+) \| (yes|no) \|$`).FindAllStringSubmatch(page, -1)
		if len(rows) != len(frameNames) {
			t.Fatalf("the page has %d frames, the code %d", len(rows), len(frameNames))
		}
		for _, row := range rows {
			n, _ := strconv.Atoi(row[1])
			typ := frameType(n)
			if frameNames[typ] != row[2] {
				t.Errorf("type %d is %v, the page says %s", n, typ, row[2])
			}
			if got := fmt.Sprint(bodyRange[typ]); got != fmt.Sprintf("[%s %s]", row[3], row[4]) {
				t.Errorf("%v has %s bytes, the page says %s to %s", typ, got, row[3], row[4])
			}
		}
	})
	t.Run("codes", func(t *testing.T) {
		_, section, _ := strings.Cut(page, "### Codes")
		rows := regexp.MustCompile("(?m)^\\| (\\d+) \\| `([a-z-]+)` \\| .+ \\|$").FindAllStringSubmatch(section, -1)
		if len(rows) != len(codeNames) {
			t.Fatalf("the page has %d codes, the code %d", len(rows), len(codeNames))
		}
		for _, row := range rows {
			n, _ := strconv.Atoi(row[1])
			if codeNames[Code(n)] != row[2] {
				t.Errorf("code %d is %v, the page says %s", n, Code(n), row[2])
			}
		}
	})
	t.Run("limits", func(t *testing.T) {
		plain := regexp.MustCompile(`(\d),(\d)`).ReplaceAllString(page, "$1$2")
		for _, want := range []string{
			fmt.Sprintf("more than %d ahead", maxStreamGap), fmt.Sprintf("at least every %d bytes", lackEvery),
			fmt.Sprintf("or %d ms after", lackDelay.Milliseconds()), fmt.Sprintf("after %d unanswered PINGs", maxBusyPings),
			fmt.Sprintf("every %d seconds and after %d", int(pingIdle.Seconds()), maxIdlePings),
			fmt.Sprintf("at most %d seconds", int(helloTimeout.Seconds())),
		} {
			if !strings.Contains(strings.ReplaceAll(plain, "\n  ", " "), want) {
				t.Errorf("the page does not say %q", want)
			}
		}
	})
}
