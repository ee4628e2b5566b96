package connector

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

func TestCompare(t *testing.T) {
	first := &config.Connector{
		StateDir: "/a", Relays: []config.Endpoint{{Host: "relay.example"}}, Proxy: config.Proxy{Mode: config.ProxyNone},
		Stores: []config.Store{{Name: "a", Host: "a", Port: 1}, {Name: "b", Host: "b", Port: 2}, {Name: "c", Host: "c", Port: 3}},
	}
	change := func(do func(*config.Connector)) *config.Connector {
		next := *first
		next.Stores = slices.Clone(first.Stores)
		do(&next)
		return &next
	}
	for _, tc := range []struct {
		name string
		next *config.Connector
		want Changes
	}{
		{"nothing", change(func(*config.Connector) {}), Changes{}},
		{"order", change(func(c *config.Connector) { slices.Reverse(c.Stores) }), Changes{}},
		{"stores", change(func(c *config.Connector) {
			c.Stores = []config.Store{{Name: "e"}, {Name: "d"}, {Name: "b", Host: "b", Port: 2, Jobs: []string{"nightly"}}, c.Stores[2]}
		}), Changes{StoresAdded: []string{"d", "e"}, StoresRemoved: []string{"a"}, StoresChanged: []string{"b"}}},
		{"keys", change(func(c *config.Connector) {
			c.Relays = []config.Endpoint{{Host: "relay.example", TLS: 8443}}
			c.Proxy.Bypass, c.Carriers, c.Log.Level = []string{"a"}, []config.Carrier{config.CarrierTLS}, slog.LevelDebug
		}), Changes{Keys: []string{"carriers", "log.level", "proxy", "relay"}}},
		{"an equal endpoint", change(func(c *config.Connector) { c.Relays = []config.Endpoint{{Host: "relay.example"}} }), Changes{}},
		{"restart", change(func(c *config.Connector) { c.StateDir, c.Log.Format = "/b", config.LogJSON }), Changes{Restart: []string{"log.format", "state_dir"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, list := range []*[]string{&tc.want.StoresAdded, &tc.want.StoresRemoved, &tc.want.StoresChanged, &tc.want.Keys, &tc.want.Restart} {
				if *list == nil {
					*list = []string{}
				}
			}
			got := compare(first, first, tc.next)
			if d := cmp.Diff(&tc.want, got); d != "" {
				t.Error(d)
			}
			if text := got.Text(); text == "" || strings.HasPrefix(text, "nothing") != got.none() {
				t.Errorf("%q", text)
			}
		})
	}
}

// TestEveryKeyIsCompared: a key that is new in the configuration either is taken
// over by a reload, or is said to need a restart.
func TestEveryKeyIsCompared(t *testing.T) {
	typ := reflect.TypeFor[config.Connector]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		next := config.Connector{}
		field := reflect.ValueOf(&next).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString("x")
		case reflect.Int, reflect.Int64:
			field.SetInt(1)
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Pointer:
			field.Set(reflect.New(field.Type().Elem()))
		case reflect.Slice:
			field.Set(reflect.MakeSlice(field.Type(), 1, 1))
		case reflect.Struct:
			if name == "Proxy" {
				next.Proxy.URL = "x"
			} else if name == "Log" {
				next.Log.Level = 1
			} else if name == "Lanes" {
				next.Lanes.Max = 1
			} else {
				t.Fatalf("%s: set one of its fields here", name)
			}
		default:
			t.Fatalf("%s: a %v", name, field.Kind())
		}
		got := compare(&config.Connector{}, &config.Connector{}, &next)
		if got.none() && len(got.Restart) == 0 {
			t.Errorf("a change of %s is not noticed", name)
		}
	}
}

// source is a configuration that tests change.
type source struct {
	mu   sync.Mutex
	file config.Connector
	err  error
}

func (s *source) set(change func(*config.Connector), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if change != nil {
		s.file.Stores = slices.Clone(s.file.Stores)
		change(&s.file)
	}
	s.err = err
}

func (s *source) read() (*config.Connector, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	file := s.file
	file.Stores = slices.Clone(s.file.Stores)
	return &file, s.err
}

// reloadable is a connector that runs and whose configuration changes.
type reloadable struct {
	*process
	*source
	relay  *fakeRelay
	hangup chan os.Signal
	level  *slog.LevelVar
	path   string
	reg    *prometheus.Registry
}

func startReloadable(t *testing.T, r *fakeRelay, port int, carriers ...config.Carrier) *reloadable {
	t.Helper()
	opt := r.options(t, carriers...)
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	opt.File.Stores = stores(port)
	c := &reloadable{
		source: &source{file: *opt.File}, relay: r, hangup: make(chan os.Signal, 1), level: new(slog.LevelVar),
		path: write(t, filepath.Join(t.TempDir(), "connector.yaml"), "first"), reg: prometheus.NewRegistry(),
	}
	c.process = runConfig(t, Config{
		File: opt.File, Path: c.path, Reload: c.read, Hangup: c.hangup, Level: c.level, Registry: c.reg,
	})
	return c
}

// metric is the value of a metric, of the label's value where it has one.
func (c *reloadable) metric(name, label string) float64 {
	c.t.Helper()
	families, err := c.reg.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if labels := m.GetLabel(); family.GetName() == name && (label == "" || labels[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (c *reloadable) count(result string) float64 {
	return c.metric("ebbgate_connector_reloads_total", result)
}

// reload reads the configuration, which must be good.
func (c *reloadable) reload() *Changes {
	c.t.Helper()
	changes, err := Reload(c.t.Context(), c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return changes
}

// TestReloadStores: stores that are new can be dialled and are announced, those
// that are gone cannot, and streams of both go on.
func TestReloadStores(t *testing.T) {
	for _, carrier := range []config.Carrier{config.CarrierTLS, config.CarrierQUIC} {
		t.Run(string(carrier), func(t *testing.T) {
			r := startRelay(t, relayOptions{})
			told := make(chan tunnel.NodeConfig, 8)
			r.set(func(r *fakeRelay) { r.config = func(c tunnel.NodeConfig) error { told <- c; return nil } })
			ln := echo(t)
			c := startReloadable(t, r, portOf(ln.Addr()), carrier)
			r.next(tunnel.RoleControl)
			node := r.node("n1")
			before, err := r.open(t.Context(), node, "echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			c.set(func(f *config.Connector) {
				st := f.Stores[0]
				st.Name = "fresh"
				f.Stores = []config.Store{st}
			}, nil)
			got := c.reload()
			want := &Changes{
				File: c.path, StoresAdded: []string{"fresh"}, StoresRemoved: []string{"clients", "echo", "nowhere", "others", "refused"},
				StoresChanged: []string{}, Keys: []string{}, Restart: []string{}, Announced: true,
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if c := <-told; len(c.Stores) != 1 || c.Stores[0].Name != "fresh" {
				t.Errorf("the relay was told %+v", c)
			}
			s, err := r.open(t.Context(), node, "fresh", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := exchange(t, s, 1000); got.Reason != bundle.CodeOK {
				t.Errorf("the new store: %+v", got)
			}
			var refused *bundle.RefusedError
			if _, err := r.open(t.Context(), node, "echo", nil); !errors.As(err, &refused) || refused.Reason != bundle.CodeStoreUnknown {
				t.Errorf("the store that is gone: %v", err)
			}
			if got := exchange(t, before, 1000); got.Reason != bundle.CodeOK {
				t.Errorf("the stream of the store that is gone: %+v", got)
			}
			if len(told) > 0 || c.count("ok") != 1 {
				t.Errorf("told again: %d; counted %v", len(told), c.count("ok"))
			}
			if got := c.reload(); !got.none() || !got.Announced || c.count("unchanged") != 1 {
				t.Errorf("the same again: %+v", got)
			}
		})
	}
}

// TestReloadRefused: an error changes nothing and is seen, until it is mended.
func TestReloadRefused(t *testing.T) {
	r := startRelay(t, relayOptions{})
	ln := echo(t)
	c := startReloadable(t, r, portOf(ln.Addr()), config.CarrierTLS)
	r.next(tunnel.RoleControl)
	bad := &config.Error{Problems: []config.Problem{{Where: "connector.yaml:3", Key: "shops", Message: "unknown key"}}}
	for name, tc := range map[string]struct {
		change func(*config.Connector)
		err    error
		words  string
	}{
		"a bad file":      {nil, bad, "connector.yaml:3: shops: unknown key"},
		"too many stores": {func(f *config.Connector) { f.Stores = make([]config.Store, 5000) }, nil, "5000 stores"},
		"no proxy": {func(f *config.Connector) {
			f.Proxy = config.Proxy{Mode: config.ProxyCustom, URL: "ftp://proxy"}
		}, nil, "proxy.url"},
	} {
		t.Run(name, func(t *testing.T) {
			good := c.file
			c.set(tc.change, tc.err)
			_, err := Reload(t.Context(), c.dir)
			if err == nil {
				t.Fatal("it was taken")
			}
			var s spoken
			if !errors.As(err, &s) || s.Hop() != "config" || s.Advice() == "" || !strings.Contains(s.Error(), tc.words) {
				t.Errorf("%v", err)
			}
			rep, err := Status(t.Context(), c.dir)
			if err != nil || rep.Config.Error == nil || !strings.Contains(rep.Config.Error.Message, tc.words) || len(rep.Stores) != 5 {
				t.Errorf("status %+v, %v", rep, err)
			}
			if c.metric("ebbgate_connector_config_good", "") != 0 {
				t.Error("the gauge says that all is well")
			}
			stream, err := r.open(t.Context(), r.node("n1"), "echo", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := exchange(t, stream, 1000); got.Reason != bundle.CodeOK {
				t.Errorf("%+v", got)
			}
			c.set(func(f *config.Connector) { *f = good }, nil)
			if tc.err == nil { // else it is read again without a word
				c.reload()
			}
			c.status(func(r *Report) bool { return r.Config.Error == nil })
			if c.metric("ebbgate_connector_config_good", "") != 1 {
				t.Error("the gauge does not say that all is well")
			}
		})
	}
}

// TestReloadCauses: a hangup and a changed file do what the command does.
func TestReloadCauses(t *testing.T) {
	r := startRelay(t, relayOptions{})
	ln := echo(t)
	c := startReloadable(t, r, portOf(ln.Addr()), config.CarrierTLS)
	r.next(tunnel.RoleControl)
	has := func(name string) func(*Report) bool {
		return func(r *Report) bool {
			return slices.ContainsFunc(r.Stores, func(s StoreReport) bool { return s.Name == name })
		}
	}
	rename := func(name string) {
		c.set(func(f *config.Connector) { f.Stores[0].Name = name }, nil)
	}
	rename("hung-up")
	c.hangup <- syscall.SIGHUP
	c.status(has("hung-up"))
	rename("written")
	write(t, c.path, "second")
	c.status(has("written"))
	// The level is live, and what is not says so.
	c.set(func(f *config.Connector) { f.Log.Level, f.StateDir = slog.LevelDebug, "elsewhere" }, nil)
	if got := c.reload(); !slices.Equal(got.Keys, []string{"log.level"}) || !slices.Equal(got.Restart, []string{"state_dir"}) {
		t.Errorf("%+v", got)
	}
	if c.level.Level() != slog.LevelDebug {
		t.Errorf("level %v", c.level.Level())
	}
	c.status(func(r *Report) bool { return slices.Equal(r.Config.Restart, []string{"state_dir"}) })
}

// TestReloadAnnouncesAgain: a relay that does not take the stores is told again,
// and one that was away is told by hello.
func TestReloadAnnouncesAgain(t *testing.T) {
	r := startRelay(t, relayOptions{})
	told := make(chan string, 8)
	fails := 1
	r.set(func(r *fakeRelay) {
		r.config = func(c tunnel.NodeConfig) error {
			told <- c.Stores[0].Name
			if fails--; fails >= 0 {
				return tunnel.Errorf("state-unavailable", "relay", "", "not now")
			}
			return nil
		}
	})
	ln := echo(t)
	c := startReloadable(t, r, portOf(ln.Addr()), config.CarrierTLS)
	control := r.next(tunnel.RoleControl)
	c.set(func(f *config.Connector) { f.Stores[0].Name = "one" }, nil)
	if got := c.reload(); !got.Announced {
		t.Errorf("%+v", got)
	}
	if a, b := <-told, <-told; a != "one" || b != "one" {
		t.Errorf("told %s, then %s", a, b)
	}
	r.set(func(r *fakeRelay) { r.refuse = tunnel.Errorf("relay-draining", "relay", "", "not now") })
	_ = control.Close("test")
	c.status(func(r *Report) bool { return !r.Online })
	c.set(func(f *config.Connector) { f.Stores[0].Name = "two" }, nil)
	if got := c.reload(); got.Announced || !strings.Contains(got.Text(), "does not know yet") {
		t.Errorf("while the relay is away: %+v", got)
	}
	r.set(func(r *fakeRelay) { r.refuse = nil })
	if v := r.next(tunnel.RoleControl); v.hello.Stores[0].Name != "two" {
		t.Errorf("hello says %+v", v.hello.Stores)
	}
}

// TestReloadMoves: a stream that would end with its session holds the move up, and
// goes on; then both sessions take the new way, and the old ones end. The new
// proxy is no store from the first moment on.
func TestReloadMoves(t *testing.T) {
	r := startRelay(t, relayOptions{})
	proxy := startProxy(t, false)
	addr := proxy.Listener.Addr()
	ln := echo(t)
	c := startReloadable(t, r, portOf(ln.Addr()), config.CarrierTLS)
	control := r.next(tunnel.RoleControl)
	s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.set(func(f *config.Connector) {
		f.Proxy = proxy.config()
		st := f.Stores[0]
		st.Name, st.Port = "proxy", portOf(addr)
		f.Stores = append(f.Stores, st)
	}, nil)
	if got := c.reload(); !slices.Equal(got.Keys, []string{"proxy"}) || !got.Moving {
		t.Errorf("%+v", got)
	}
	var refused *bundle.RefusedError
	if _, err := r.open(t.Context(), r.node("n1"), "proxy", nil); !errors.As(err, &refused) || refused.Reason != bundle.CodeAddressRefused {
		t.Errorf("the new proxy as a store: %v", err)
	}
	if rep := c.status(func(*Report) bool { return true }); rep.Sessions[0].Proxy != "" || !rep.Config.Moving {
		t.Errorf("while a stream is open: %+v", rep)
	}
	if got := exchange(t, s, 1000); got.Reason != bundle.CodeOK {
		t.Errorf("the stream that was open: %+v", got)
	}
	rep := c.status(func(rep *Report) bool {
		return !rep.Config.Moving && len(rep.Sessions) == 2 &&
			!slices.ContainsFunc(rep.Sessions, func(s SessionReport) bool { return s.Proxy != addr.String() })
	})
	if rep.Proxy != addr.String() {
		t.Errorf("status %+v", rep)
	}
	<-control.Done()
}

// TestReloadKeepsWhatWorks: a way that does not work changes nothing but the
// status.
func TestReloadKeepsWhatWorks(t *testing.T) {
	r := startRelay(t, relayOptions{})
	ln := echo(t)
	c := startReloadable(t, r, portOf(ln.Addr()), config.CarrierTLS)
	r.next(tunnel.RoleControl)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	c.set(func(f *config.Connector) {
		f.Proxy = config.Proxy{Mode: config.ProxyCustom, URL: "http://" + dead.Addr().String()}
	}, nil)
	if got := c.reload(); !got.Moving || !got.Announced {
		t.Errorf("%+v", got)
	}
	c.status(func(r *Report) bool {
		return r.Online && r.Config.Moving && r.Proxy == "" && r.LastError != nil && strings.Contains(r.LastError.Message, dead.Addr().String())
	})
	s, err := r.open(t.Context(), r.node("n1"), "echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, s, 1000); got.Reason != bundle.CodeOK {
		t.Errorf("%+v", got)
	}
}

// TestReloadUnavailable: connectors that do not run, and ones that cannot.
func TestReloadUnavailable(t *testing.T) {
	_, err := Reload(t.Context(), t.TempDir())
	wantSpoken(t, err, "connector-not-running", "node", "no connector runs")
	r := startRelay(t, relayOptions{})
	ln := echo(t)
	p := start(t, r, portOf(ln.Addr()), config.CarrierTLS)
	r.next(tunnel.RoleControl)
	_, err = Reload(t.Context(), p.dir)
	wantSpoken(t, err, "reload-unavailable", "config", "cannot read")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Reload(ctx, p.dir); err == nil {
		t.Error("reloaded after the end")
	}
}
