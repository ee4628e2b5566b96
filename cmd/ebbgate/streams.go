package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/ebbgate/ebbgate/client"
)

// maxStreamRows bounds the streams that a table for people shows.
const maxStreamRows = 20

// streamsText is a summary for people: the streams by store, and what is to be
// said of all.
func streamsText(s client.Summary) string {
	streams := s.Last[max(0, len(s.Last)-maxStreamRows):]
	streams = slices.Clone(streams)
	slices.SortStableFunc(streams, func(a, b client.Report) int { return cmp.Compare(a.Target, b.Target) })
	text := ""
	if len(streams) > 0 {
		rows := [][]string{{"store", "read", "written", "seconds", "read crc32c", "written crc32c", "end", "stream"}}
		for _, r := range streams {
			rows = append(rows, []string{
				r.Target, fmt.Sprint(r.BytesRead), fmt.Sprint(r.BytesWritten), fmt.Sprintf("%.1f", r.Seconds),
				r.ReadCRC32C, r.WriteCRC32C, r.Reason, r.UUID,
			})
		}
		text = table(rows...)
	}
	if hidden := s.Streams - len(streams); hidden > 0 {
		text += fmt.Sprintf("%d streams that ended before are not shown\n", hidden)
	}
	refused := 0
	for _, store := range s.Stores {
		refused += store.Refused
	}
	return text + fmt.Sprintf("%s, %d ended badly; %s refused; %d bytes read, %d written; %.1f s",
		plural(s.Streams, "stream"), s.Failed-refused, plural(refused, "dial"), s.BytesRead, s.BytesWritten, s.Seconds)
}

// plural is a number of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// writeJSON writes v into a file, whole or not at all.
func writeJSON(path string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	partial := path + ".partial"
	if err := os.WriteFile(partial, append(body, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(partial, path)
}
