package config

import "strings"

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Where is a file and line, a flag or an environment variable.
	Where string
	// Key is the key's full name (stores[2].address); empty where there is none.
	Key string
	// Message says what is wrong and Example what it should look like.
	Message, Example string
}

// String is the problem on one line.
func (p Problem) String() string {
	s := p.Where
	if p.Key != "" {
		s += ": " + p.Key
	}
	s += ": " + p.Message
	if p.Example != "" {
		s += " (example: " + p.Example + ")"
	}
	return s
}

// Error is everything that is wrong with a configuration.
type Error struct {
	// Problems are in the order of the sources; at least one.
	Problems []Problem
	// Err is why the file could not be read, where that is it.
	Err error
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (e *Error) Unwrap() error { return e.Err }

// Code is config-unreadable or config-invalid.
func (e *Error) Code() string {
	if e.Err != nil {
		return "config-unreadable"
	}
	return "config-invalid"
}

// Usage tells whether all of it stands on the command line.
func (e *Error) Usage() bool {
	for _, p := range e.Problems {
		if !strings.HasPrefix(p.Where, "flag --") {
			return false
		}
	}
	return e.Err == nil
}

// Hop is config.
func (e *Error) Hop() string { return "config" }

// Advice says what to do.
func (e *Error) Advice() string {
	if e.Err != nil {
		return "check the path given with --config and that this user may read the file"
	}
	return "correct the places named above; docs/reference shows every key"
}
