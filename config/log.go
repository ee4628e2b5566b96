package config

import "log/slog"

// Log says what is written to standard error, and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// LogFormat is how a log looks.
type LogFormat string

// The formats that there are.
const (
	LogAuto LogFormat = "auto" // text on a terminal, JSON elsewhere
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// rawLog mirrors the key log of both files.
type rawLog struct {
	Level  string `mapstructure:"level" usage:"debug, info, warn or error"`
	Format string `mapstructure:"format" usage:"text, json, or auto: text on a terminal, JSON elsewhere"`
}

var logLevels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

func (raw rawLog) check(c *checker) Log {
	return Log{
		Level:  logLevels[choice(c, "log.level", or(raw.Level, "info"), "debug", "info", "warn", "error")],
		Format: choice(c, "log.format", or(raw.Format, string(LogAuto)), LogAuto, LogText, LogJSON),
	}
}

// ParseLog reads what the flags --log-level and --log-format say; empty texts are
// the defaults. Its error is an [*Error].
func ParseLog(level, format string) (Log, error) {
	c := &checker{origin: func(key string) string {
		return map[string]string{"log.level": "flag --log-level", "log.format": "flag --log-format"}[key]
	}}
	log := rawLog{Level: level, Format: format}.check(c)
	return log, c.err()
}
