package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/ebbgate/ebbgate/config"
)

// logger is the log of a command that has no configuration of its own.
func (a *app) logger() *slog.Logger {
	log, _ := config.ParseLog(a.logLevel, a.logFormat) // checked before any command runs
	logger, _ := a.log(log)
	return logger
}

// log writes to standard error; its level can be changed.
func (a *app) log(log config.Log) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(log.Level)
	opt := &slog.HandlerOptions{Level: level}
	terminal := (a.terminal || isTerminal(a.err)) && !a.json
	if log.Format == config.LogText || log.Format != config.LogJSON && terminal {
		return slog.New(slog.NewTextHandler(a.err, opt)), level
	}
	return slog.New(slog.NewJSONHandler(a.err, opt)), level
}

// print prints a result: as JSON, or as text makes it.
func (a *app) print(v any, text func() string) error { return a.printTo(a.out, v, text) }

func (a *app) printTo(out io.Writer, v any, text func() string) error {
	if !a.json {
		_, err := fmt.Fprintln(out, strings.TrimSuffix(text(), "\n"))
		return err
	}
	return json.NewEncoder(out).Encode(v)
}

// isTerminal tells whether people read what is written there.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// ready prints the line that says that a long-running command serves.
func (a *app) ready(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic("ebbgate: BUG: ready line: " + err.Error())
	}
	_, _ = fmt.Fprintf(a.out, "ready %s\n", line)
}

// printError prints what went wrong, where, and what to do.
func (a *app) printError(err error) {
	code, hop, advice := "failed", "", ""
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		code = coded.Code()
	}
	var placed interface {
		Hop() string
		Advice() string
	}
	if errors.As(err, &placed) {
		hop, advice = placed.Hop(), placed.Advice()
	}
	message := redact(err.Error())
	if a.json {
		line, _ := json.Marshal(map[string]any{"error": map[string]string{"code": code, "hop": hop, "message": message, "advice": advice}})
		_, _ = fmt.Fprintf(a.err, "%s\n", line)
		return
	}
	where := ""
	if hop != "" {
		where = hop + ": "
	}
	_, _ = fmt.Fprintf(a.err, "ebbgate: %s%s [%s]\n", where, strings.ReplaceAll(message, "\n", "\n  "), code)
	if advice != "" {
		_, _ = fmt.Fprintf(a.err, "  %s\n", advice)
	}
}

// table lays rows out in columns.
func table(rows ...[]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
	return b.String()
}

func shortTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
