package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ActivityQuery says which runs are wanted, newest first. What is empty is any.
type ActivityQuery struct {
	Gateway, Node, Job string
	Since              time.Time // runs whose last stream ended later
	Limit              int       // 0: as many as a page has
	After              string    // Next of the page before
}

// Activity is a page of runs.
type Activity struct {
	Runs []Run  `json:"runs"`
	Next string `json:"next,omitempty"` // empty: this is the last page
}

// Run is what one run of a job did with one store by one node.
type Run struct {
	Job          string    `json:"job"`
	Run          string    `json:"run"`
	Gateway      string    `json:"gateway"`
	Node         string    `json:"node"`
	Store        string    `json:"store"`
	Start        time.Time `json:"start"`
	End          time.Time `json:"end"`
	Streams      int64     `json:"streams"`
	BytesRead    int64     `json:"bytes_read"`
	BytesWritten int64     `json:"bytes_written"`
	Resumes      int64     `json:"resumes"`
	Result       string    `json:"result"` // complete, failed, lost or differs: that of its worst stream, or of a refused dial
	Reason       string    `json:"reason"` // ok, or the code of that stream's end or of the refusal
	Hop          string    `json:"hop"`    // where it happened; empty: nothing did
	Stalls       int64     `json:"stalls"`
	// Of the streams, those that did not end well.
	Failed  int64 `json:"failed"`
	Lost    int64 `json:"lost"`
	Differs int64 `json:"differs"`
	// Refused are dials that were refused; they are no streams. Where all streams are
	// complete, Reason is that of the last one. A run of refused dials alone has no
	// streams, and no Node where none was chosen.
	Refused int64 `json:"refused"`
	// OneSided are those of which only one end has reported.
	OneSided int64 `json:"one_sided"`
	// Differences are streams whose two ends do not say the same, at most ten.
	Differences []Difference `json:"differences,omitempty"`
}

// Difference is what the two ends of a stream say.
type Difference struct {
	UUID    string  `json:"uuid"`
	Ingress Numbers `json:"ingress"`
	Node    Numbers `json:"node"`
}

// Numbers are bytes and CRC-32C of each direction.
type Numbers struct {
	BytesRead     int64  `json:"bytes_read"`
	BytesWritten  int64  `json:"bytes_written"`
	ReadCRC32C    string `json:"read_crc32c"`
	WrittenCRC32C string `json:"written_crc32c"`
}

// activity answers GET /v1/tenants/{tenant}/activity.
func (s *Server) activity(r *http.Request) (any, error) {
	asked := r.URL.Query()
	q := ActivityQuery{Gateway: asked.Get("gateway"), Node: asked.Get("node"), Job: asked.Get("job"), After: asked.Get("after")}
	var err error
	if text := asked.Get("since"); text != "" {
		if q.Since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return nil, refused("query-invalid", "write a time as in 2026-01-31T00:00:00Z", "since: %v", err)
		}
	}
	if text := asked.Get("limit"); text != "" {
		if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 {
			return nil, refused("query-invalid", "write a number from 1 on", "limit is %.40q", text)
		}
	}
	page, err := s.service.Activity(r.Context(), r.PathValue("tenant"), q)
	page.Runs = orEmpty(page.Runs)
	return page, err
}

// Activity lists what runs did, one page of it.
func (c *Client) Activity(ctx context.Context, tenant string, q ActivityQuery) (page Activity, err error) {
	ask := url.Values{}
	for name, value := range map[string]string{"gateway": q.Gateway, "node": q.Node, "job": q.Job, "after": q.After} {
		if value != "" {
			ask.Set(name, value)
		}
	}
	if !q.Since.IsZero() {
		ask.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Limit > 0 {
		ask.Set("limit", strconv.Itoa(q.Limit))
	}
	err = c.ask(ctx, &page, ask, "tenants", tenant, "activity")
	return page, err
}
