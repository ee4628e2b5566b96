package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// Client is the commands' side of the API; it has the methods of [Service]. It
// is safe for concurrent use.
type Client struct {
	http http.Client
	base string
	path string // of the socket
}

// Dial makes a client of the API at api: unix:///path/to/admin.sock. It does no
// I/O.
func Dial(api string) (*Client, error) {
	u, err := url.Parse(api)
	if err != nil || u.Scheme != "unix" || u.Path == "" {
		return nil, &Error{ErrCode: "api-invalid", ErrHop: "config", Message: fmt.Sprintf("%q is not the address of an API", api), Advise: "give --api unix:///var/lib/ebbgate/admin.sock or --config relay.yaml"}
	}
	c := &Client{base: "http://relay", path: u.Path}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", u.Path)
		},
		DisableKeepAlives: true,
	}
	return c, nil
}

// CreateGateway makes a gateway.
func (c *Client) CreateGateway(ctx context.Context, tenant, name string) (g Gateway, err error) {
	err = c.call(ctx, "POST", &g, map[string]any{"name": name}, "tenants", tenant, "gateways")
	return g, err
}

// Gateways lists the tenant's gateways.
func (c *Client) Gateways(ctx context.Context, tenant string) ([]Gateway, error) {
	var body struct{ Gateways []Gateway }
	err := c.call(ctx, "GET", &body, nil, "tenants", tenant, "gateways")
	return body.Gateways, err
}

// GatewayKeys shows a gateway's authentication keys.
func (c *Client) GatewayKeys(ctx context.Context, tenant, name string) (k Keys, err error) {
	err = c.call(ctx, "GET", &k, nil, "tenants", tenant, "gateways", name, "keys")
	return k, err
}

// RegenerateKey replaces one of a gateway's keys.
func (c *Client) RegenerateKey(ctx context.Context, tenant, name, slot string) (k Keys, err error) {
	err = c.call(ctx, "POST", &k, nil, "tenants", tenant, "gateways", name, "keys", slot, "regenerate")
	return k, err
}

// Nodes lists a gateway's nodes.
func (c *Client) Nodes(ctx context.Context, tenant, gateway string) ([]Node, error) {
	var body struct{ Nodes []Node }
	err := c.call(ctx, "GET", &body, nil, "tenants", tenant, "gateways", gateway, "nodes")
	return body.Nodes, err
}

// CreateJob makes a job; its token is never shown again.
func (c *Client) CreateJob(ctx context.Context, tenant, name string, allow []string) (j JobToken, err error) {
	err = c.call(ctx, "POST", &j, map[string]any{"name": name, "allow": allow}, "tenants", tenant, "jobs")
	return j, err
}

// Jobs lists the tenant's jobs.
func (c *Client) Jobs(ctx context.Context, tenant string) ([]Job, error) {
	var body struct{ Jobs []Job }
	err := c.call(ctx, "GET", &body, nil, "tenants", tenant, "jobs")
	return body.Jobs, err
}

// RevokeJob ends a job: its token is refused and its streams are reset.
func (c *Client) RevokeJob(ctx context.Context, tenant, name string) error {
	return c.call(ctx, "POST", nil, nil, "tenants", tenant, "jobs", name, "revoke")
}

// TestStore has a store dialled by the nodes that have it, or by one of them.
func (c *Client) TestStore(ctx context.Context, tenant, gateway, store, node string) (t StoreTest, err error) {
	err = c.call(ctx, "POST", &t, map[string]any{"node": node}, "tenants", tenant, "gateways", gateway, "stores", store, "test")
	return t, err
}

// Authorities lists the generations of the relay's CA.
func (c *Client) Authorities(ctx context.Context) ([]Authority, error) {
	var body struct{ Authorities []Authority }
	err := c.call(ctx, "GET", &body, nil, "certs")
	return body.Authorities, err
}

// call makes one request; path's parts are escaped.
func (c *Client) call(ctx context.Context, method string, into, body any, path ...string) error {
	return c.do(ctx, method, into, nil, body, path)
}

// ask makes a request with a query.
func (c *Client) ask(ctx context.Context, into any, query url.Values, path ...string) error {
	return c.do(ctx, "GET", into, query, nil, path)
}

func (c *Client) do(ctx context.Context, method string, into any, query url.Values, body any, path []string) error {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("admin: encode request: %w", err)
		}
		content = bytes.NewReader(encoded)
	}
	for i, part := range path {
		path[i] = url.PathEscape(part)
	}
	at := c.base + "/v1/" + strings.Join(path, "/")
	if len(query) > 0 {
		at += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, at, content)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return c.unreachable(err)
	}
	defer answer.Body.Close()
	d := json.NewDecoder(io.LimitReader(answer.Body, 64<<20))
	if answer.StatusCode != http.StatusOK {
		var failure struct{ Error *Error }
		if err := d.Decode(&failure); err != nil || failure.Error == nil {
			return &Error{ErrCode: "api-invalid", ErrHop: "relay", Message: "the relay answered " + answer.Status, Advise: "look at the relay's log"}
		}
		return failure.Error
	}
	if into == nil {
		return nil
	}
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("admin: read the relay's answer: %w", err)
	}
	return nil
}

// unreachable says why the socket did not answer.
func (c *Client) unreachable(err error) error {
	e := &Error{ErrCode: "relay-unreachable", ErrHop: "relay", Message: fmt.Sprintf("the relay's API at %s does not answer: %v", c.path, err), Advise: "look at the relay's log"}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		e.Message = fmt.Sprintf("no relay listens on %s", c.path)
		e.Advise = "start the relay (ebbgate relay run --config relay.yaml), or name its socket with --api unix:///path or --config relay.yaml"
	case errors.Is(err, fs.ErrPermission):
		e.Message = fmt.Sprintf("you may not open %s", c.path)
		e.Advise = "run the command as the user that the relay runs as, or as root"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("admin: %w", err)
	}
	return e
}
