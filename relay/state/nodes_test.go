package state

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNodes(t *testing.T) { onEngines(t, testNodes) }

func testNodes(t *testing.T, opt Options) {
	s := stateIn(t, opt)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "lab"))
	pub := publicKey(t)
	n := must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "b", pub))
	want := Node{Tenant: DefaultTenant, Gateway: "corp", Name: "b", PublicKey: pub, Stores: []StoreRow{}, Created: n.Created}
	if d := cmp.Diff(want, n); d != "" {
		t.Error(d)
	}
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "a", publicKey(t)))
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "lab", "b", publicKey(t)))
	for _, c := range []struct {
		tenant, gateway, name string
		pub                   []byte
		kind                  error
		code                  string
	}{
		{DefaultTenant, "corp", "b", publicKey(t), ErrExists, "node-exists"},
		{DefaultTenant, "none", "b", pub, ErrNotFound, "gateway-unknown"},
		{"other", "corp", "c", pub, ErrNotFound, "gateway-unknown"},
		{DefaultTenant, "corp", "C", pub, ErrInvalid, "name-invalid"},
		{DefaultTenant, "corp", "", pub, ErrInvalid, "name-invalid"},
		{DefaultTenant, "corp", "c", nil, ErrInvalid, "key-invalid"},
		{DefaultTenant, "corp", "c", pub[:len(pub)-1], ErrInvalid, "key-invalid"},
		{DefaultTenant, "corp", "c", make([]byte, 1<<20), ErrInvalid, "key-invalid"},
	} {
		_, err := s.RegisterNode(ctx, c.tenant, c.gateway, c.name, c.pub)
		wantError(t, err, c.kind, c.code)
	}
	revision := s.Revision()
	if again := must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "b", pub)); !cmp.Equal(again, n) || s.Revision() != revision {
		t.Errorf("the answer was lost, and now it is %+v", again)
	}
	s = reopen(t, s)
	var names []string
	for _, n := range s.Nodes(DefaultTenant, "corp") {
		names = append(names, n.Name)
	}
	if d := cmp.Diff([]string{"a", "b"}, names); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want, must[Node](t)(s.Node(DefaultTenant, "corp", "b"))); d != "" {
		t.Error(d)
	}
	_, err := s.Node(DefaultTenant, "lab", "a")
	wantError(t, err, ErrNotFound, "node-unknown")
	_, err = s.Node("other", "corp", "b")
	wantError(t, err, ErrNotFound, "node-unknown")
	if got := s.Nodes("other", "corp"); len(got) != 0 {
		t.Errorf("another tenant sees %v", got)
	}
}

func TestRenew(t *testing.T) { onEngines(t, testRenew) }

func testRenew(t *testing.T, opt Options) {
	s := stateIn(t, opt)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	keys := make(map[byte][]byte)
	for name := byte('a'); name < 'h'; name++ {
		keys[name] = publicKey(t)
	}
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "n", keys['a']))
	for i, c := range []struct {
		counter       int
		key           byte
		refused       bool
		wantCounter   int
		current, past byte
		writes        bool
	}{
		{1, 'b', false, 1, 'b', 'a', true},
		{1, 'b', false, 1, 'b', 'a', false}, // the answer was lost, the request comes again
		{1, 'c', false, 1, 'c', 'a', true},  // and with another key: the node started anew
		{2, 'd', false, 2, 'd', 'c', true},
		{1, 'c', true, 2, 'd', 'c', false}, // an old copy
		{1, 'd', true, 2, 'd', 'c', false},
		{0, 'a', true, 2, 'd', 'c', false},
		{-1, 'a', true, 2, 'd', 'c', false},
		{9, 'e', false, 9, 'e', 'd', true}, // the relay was restored from a backup
		{maxCounter + 1, 'f', true, 9, 'e', 'd', false},
	} {
		before := s.Revision()
		n, err := s.RenewNode(ctx, DefaultTenant, "corp", "n", c.counter, keys[c.key])
		if c.refused {
			wantError(t, err, ErrRefused, "certificate-superseded")
		} else if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if i%3 == 2 {
			s = reopen(t, s)
		}
		now := must[Node](t)(s.Node(DefaultTenant, "corp", "n"))
		if !c.refused {
			if d := cmp.Diff(now, n); d != "" {
				t.Errorf("%d: returned and kept differ: %s", i, d)
			}
		}
		if now.Counter != c.wantCounter || !cmp.Equal(now.PublicKey, keys[c.current]) || !cmp.Equal(now.PreviousKey, keys[c.past]) {
			t.Errorf("%d: %+v", i, now)
		}
		if (s.Revision() != before) != c.writes {
			t.Errorf("%d: revision %d after %d", i, s.Revision(), before)
		}
	}
	_, err := s.RegisterNode(ctx, DefaultTenant, "corp", "n", keys['e'])
	wantError(t, err, ErrExists, "node-exists") // it was renewed since
	_, err = s.RenewNode(ctx, DefaultTenant, "corp", "none", 1, keys['a'])
	wantError(t, err, ErrNotFound, "node-unknown")
	_, err = s.RenewNode(ctx, "other", "corp", "n", 10, keys['a'])
	wantError(t, err, ErrNotFound, "node-unknown")
	_, err = s.RenewNode(ctx, DefaultTenant, "corp", "n", 10, []byte("no key"))
	wantError(t, err, ErrInvalid, "key-invalid")
}

func TestStores(t *testing.T) { onEngines(t, testStores) }

func testStores(t *testing.T, opt Options) {
	s := stateIn(t, opt)
	ctx := t.Context()
	must[Gateway](t)(s.CreateGateway(ctx, DefaultTenant, "corp"))
	must[Node](t)(s.RegisterNode(ctx, DefaultTenant, "corp", "n", publicKey(t)))
	first := []StoreRow{{"erp-sql", 1433, []string{"sql01.corp.local:1433"}}, {"files", 445, nil}}
	many := make([]StoreRow, maxStores+1)
	for i := range many {
		many[i] = StoreRow{Name: strings.Repeat("x", i%60+1), Port: 1}
	}
	for i, c := range []struct {
		stores []StoreRow
		code   string
		writes bool
	}{
		{nil, "", false},
		{first, "", true},
		{first, "", false},
		{first[:1], "", true},
		{[]StoreRow{}, "", true},
		{nil, "", false},
		{[]StoreRow{{"ERP", 1, nil}}, "name-invalid", false},
		{[]StoreRow{{"erp", 0, nil}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 65536, nil}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, nil}, {"erp", 2, nil}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{""}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{"a b"}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{"\xff"}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, []string{strings.Repeat("x", maxAlias+1)}}}, "stores-invalid", false},
		{[]StoreRow{{"erp", 1, make([]string, maxAliases+1)}}, "stores-invalid", false},
		{many, "stores-invalid", false},
		{first, "", true},
	} {
		before := s.Revision()
		err := s.AnnounceStores(ctx, DefaultTenant, "corp", "n", c.stores)
		switch {
		case c.code != "":
			wantError(t, err, ErrInvalid, c.code)
		case err != nil:
			t.Fatalf("%d: %v", i, err)
		default:
			got := must[Node](t)(s.Node(DefaultTenant, "corp", "n")).Stores
			if d := cmp.Diff(append([]StoreRow{}, c.stores...), got); d != "" {
				t.Errorf("%d: %s", i, d)
			}
		}
		if (s.Revision() != before) != c.writes {
			t.Errorf("%d: revision %d after %d", i, s.Revision(), before)
		}
	}
	got := must[Node](t)(reopen(t, s).Node(DefaultTenant, "corp", "n")).Stores
	if d := cmp.Diff(first, got); d != "" {
		t.Error(d)
	}
	wantError(t, s.AnnounceStores(ctx, DefaultTenant, "corp", "none", first), ErrNotFound, "node-unknown")
}
