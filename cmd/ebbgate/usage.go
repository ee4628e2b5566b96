package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a command line that is none.
type usageError struct {
	command *cobra.Command // the one that was meant, as far as it is known
	message string
}

func (e *usageError) Error() string { return e.message }

// Code names the error.
func (e *usageError) Code() string { return "usage" }

// Hop is the command line.
func (e *usageError) Hop() string { return "config" }

// Advice says what to do.
func (e *usageError) Advice() string { return e.command.CommandPath() + " --help shows how it is used" }

func usagef(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// noArgs refuses arguments, and for groups names the commands that there are.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasAvailableSubCommands() {
		return usagef("%s takes no arguments, got %q", cmd.CommandPath(), args[0])
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("%s has no command %q; did you mean %s?", cmd.CommandPath(), args[0], strings.Join(near, " or "))
	}
	var known []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			known = append(known, c.Name())
		}
	}
	return usagef("%s has no command %q; it has %s", cmd.CommandPath(), args[0], strings.Join(known, ", "))
}

// exactly wants so many arguments, and names them.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usagef("%s wants %s, got %d arguments; for example: %s", cmd.CommandPath(), strings.Join(names, " "), len(args), firstExample(cmd))
		}
		return nil
	}
}

func firstExample(cmd *cobra.Command) string {
	line, _, _ := strings.Cut(cmd.Example, "\n")
	return strings.TrimSpace(line)
}

// secretFile checks that what should be the name of a file with a secret is not
// the secret.
func secretFile(flag, name string) error {
	if isSecret(name) {
		return usagef("--%s takes the name of a file, or - for standard input; the secret itself stands in the list of processes, "+
			"so replace the one that was given", flag)
	}
	return nil
}

// isSecret tells whether a text holds an authentication key or a job's token,
// and not only what they begin with.
func isSecret(s string) bool {
	return slices.ContainsFunc([]string{"ebbkey_", "ebbjob_"}, func(prefix string) bool {
		_, secret, found := strings.Cut(s, prefix)
		return found && secret != ""
	})
}

// redact takes keys and tokens out of a text: those that somebody wrote on the
// command line, where others can read them, shall not reach logs, too.
func redact(text string) string {
	words := strings.Split(text, " ")
	for i, w := range words {
		if isSecret(w) {
			words[i] = "[redacted]"
		}
	}
	return strings.Join(words, " ")
}

// asksForJSON looks for --json in a command line that could not be parsed.
func asksForJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}
