package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// SocketName is the API's socket in the relay's state directory.
const SocketName = "admin.sock"

// maxBody bounds a request, in bytes.
const maxBody = 64 << 10

// Server serves the API.
type Server struct {
	service Service
	logger  *slog.Logger
	http    *http.Server
}

// NewServer makes the server; it listens on nothing.
func NewServer(service Service, logger *slog.Logger) *Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{service: service, logger: logger}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Listen makes the API's socket in dir, for the owner alone. A socket that a
// dead relay left is replaced; the caller holds the lock on dir.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("admin: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("admin: %w", err)
	}
	return l, nil
}

// Serve serves on l until ctx ends, then closes it. It returns nil then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	const tenant = "/v1/tenants/{tenant}"
	mux.Handle("POST "+tenant+"/gateways", s.answer(func(r *http.Request) (any, error) {
		var body struct {
			Name string `json:"name"`
		}
		if err := decode(r, &body); err != nil {
			return nil, err
		}
		return s.service.CreateGateway(r.Context(), r.PathValue("tenant"), body.Name)
	}))
	mux.Handle("GET "+tenant+"/gateways", s.answer(func(r *http.Request) (any, error) {
		list, err := s.service.Gateways(r.Context(), r.PathValue("tenant"))
		return map[string]any{"gateways": orEmpty(list)}, err
	}))
	mux.Handle("GET "+tenant+"/gateways/{gateway}/keys", s.answer(func(r *http.Request) (any, error) {
		return s.service.GatewayKeys(r.Context(), r.PathValue("tenant"), r.PathValue("gateway"))
	}))
	mux.Handle("POST "+tenant+"/gateways/{gateway}/keys/{slot}/regenerate", s.answer(func(r *http.Request) (any, error) {
		return s.service.RegenerateKey(r.Context(), r.PathValue("tenant"), r.PathValue("gateway"), r.PathValue("slot"))
	}))
	mux.Handle("GET "+tenant+"/gateways/{gateway}/nodes", s.answer(func(r *http.Request) (any, error) {
		list, err := s.service.Nodes(r.Context(), r.PathValue("tenant"), r.PathValue("gateway"))
		return map[string]any{"nodes": orEmpty(list)}, err
	}))
	mux.Handle("POST "+tenant+"/jobs", s.answer(func(r *http.Request) (any, error) {
		var body struct {
			Name  string   `json:"name"`
			Allow []string `json:"allow"`
		}
		if err := decode(r, &body); err != nil {
			return nil, err
		}
		return s.service.CreateJob(r.Context(), r.PathValue("tenant"), body.Name, body.Allow)
	}))
	mux.Handle("GET "+tenant+"/jobs", s.answer(func(r *http.Request) (any, error) {
		list, err := s.service.Jobs(r.Context(), r.PathValue("tenant"))
		return map[string]any{"jobs": orEmpty(list)}, err
	}))
	mux.Handle("POST "+tenant+"/jobs/{job}/revoke", s.answer(func(r *http.Request) (any, error) {
		return struct{}{}, s.service.RevokeJob(r.Context(), r.PathValue("tenant"), r.PathValue("job"))
	}))
	mux.Handle("POST "+tenant+"/gateways/{gateway}/stores/{store}/test", s.answer(func(r *http.Request) (any, error) {
		var body struct {
			Node string `json:"node"`
		}
		if err := decode(r, &body); err != nil {
			return nil, err
		}
		return s.service.TestStore(r.Context(), r.PathValue("tenant"), r.PathValue("gateway"), r.PathValue("store"), body.Node)
	}))
	mux.Handle("GET "+tenant+"/activity", s.answer(s.activity))
	mux.Handle("GET /v1/certs", s.answer(func(r *http.Request) (any, error) {
		list, err := s.service.Authorities(r.Context())
		return map[string]any{"authorities": orEmpty(list)}, err
	}))
	mux.Handle("/", s.answer(func(r *http.Request) (any, error) {
		return nil, refused("api-unknown", "use the ebbgate command of the relay's own version", "the API has no %s %s", r.Method, r.URL.Path)
	}))
	return mux
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// decode reads a request's body strictly.
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return refused("request-malformed", "use the ebbgate command of the relay's own version", "the request's body is not what the API expects: %v", err)
	}
	return nil
}

// statuses are the answers by code; every other error is a 500.
var statuses = map[string]int{
	"api-unknown": 404, "request-malformed": 400, "name-invalid": 400, "allow-invalid": 400, "slot-invalid": 400,
	"not-found": 404, "gateway-unknown": 404, "tenant-unknown": 404, "job-unknown": 404, "node-unknown": 404, "store-unknown": 404, "no-node-online": 503, "node-elsewhere": 503, "exists": 409, "conflict": 409, "state-unavailable": 503,
	"query-invalid": 400, "activity-unavailable": 503,
}

func (s *Server) answer(do func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result, err := do(r)
		status := http.StatusOK
		if err != nil {
			e := errorOf(err)
			if status = statuses[e.ErrCode]; status == 0 {
				status = http.StatusInternalServerError
			}
			s.logger.Info("request refused", "method", r.Method, "path", r.URL.Path, "code", e.ErrCode, "error", err)
			result = map[string]any{"error": e}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(result)
	})
}

// errorOf is the wire form of an error.
func errorOf(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	e := &Error{ErrCode: "internal", ErrHop: "relay", Message: err.Error()}
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		e.ErrCode = coded.Code()
	}
	var advised interface {
		Hop() string
		Advice() string
	}
	if errors.As(err, &advised) {
		e.ErrHop, e.Advise = advised.Hop(), advised.Advice()
	}
	return e
}
