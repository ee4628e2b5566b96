package connector

import (
	"reflect"
	"slices"
	"strings"

	"github.com/ebbgate/ebbgate/config"
)

// Changes is what a reload changed. Lists are sorted and may be empty.
type Changes struct {
	// File is the configuration file; empty: there is none.
	File string `json:"file"`
	// Stores by name: those that are new, that are gone, and those of which
	// something changed.
	StoresAdded   []string `json:"stores_added"`
	StoresRemoved []string `json:"stores_removed"`
	StoresChanged []string `json:"stores_changed"`
	// Keys are the other keys that changed and are in force.
	Keys []string `json:"keys"`
	// Restart are the keys that say something else than what the connector was
	// started with, and keep their old value until it is restarted.
	Restart []string `json:"restart"`
	// Announced is true once the relays know the stores that are in force.
	Announced bool `json:"announced"`
	// Moving is true where the sessions still use the way before: they move when
	// the new way works, and, with resume_grace 0, no stream is open.
	Moving bool `json:"moving"`
}

// none tells whether nothing changed.
func (c *Changes) none() bool {
	return len(c.StoresAdded)+len(c.StoresRemoved)+len(c.StoresChanged)+len(c.Keys) == 0
}

// routeKeys are those that say how the relay is reached.
var routeKeys = []string{"relay", "carriers", "proxy"}

// reroutes tells whether the relay is reached in another way now.
func (c *Changes) reroutes() bool {
	return slices.ContainsFunc(c.Keys, func(key string) bool { return slices.Contains(routeKeys, key) })
}

// relayKey is what relay says.
type relayKey struct {
	list []config.Endpoint
	only bool
}

// compare tells what is different in next. was is in force, first is what the
// connector was started with.
func compare(first, was, next *config.Connector) *Changes {
	c := &Changes{StoresAdded: []string{}, StoresRemoved: []string{}, StoresChanged: []string{}, Keys: []string{}, Restart: []string{}}
	before, after := byName(was.Stores), byName(next.Stores)
	for name, st := range after {
		old, ok := before[name]
		if !ok {
			c.StoresAdded = append(c.StoresAdded, name)
		} else if !reflect.DeepEqual(old, st) {
			c.StoresChanged = append(c.StoresChanged, name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			c.StoresRemoved = append(c.StoresRemoved, name)
		}
	}
	live := func(key string, old, now any) {
		if !reflect.DeepEqual(old, now) {
			c.Keys = append(c.Keys, key)
		}
	}
	live("relay", relayKey{was.Relays, was.RelaysOnly}, relayKey{next.Relays, next.RelaysOnly})
	live("carriers", was.Carriers, next.Carriers)
	live("proxy", was.Proxy, next.Proxy)
	live("lanes", was.Lanes, next.Lanes)
	live("log.level", was.Log.Level, next.Log.Level)
	c.Restart = restartKeys(first, next)
	for _, list := range [][]string{c.StoresAdded, c.StoresRemoved, c.StoresChanged, c.Keys, c.Restart} {
		slices.Sort(list)
	}
	return c
}

// liveFields are those of config.Connector that a reload takes over.
var liveFields = []string{"Relays", "RelaysOnly", "Carriers", "Proxy", "Stores", "Log", "Lanes"}

// restartKeys are the keys of which next has another value than the connector was
// started with, and which a reload does not take over: every one that is not
// known to be live.
func restartKeys(first, next *config.Connector) []string {
	keys := []string{}
	if first.Log.Format != next.Log.Format {
		keys = append(keys, "log.format")
	}
	a, b := reflect.ValueOf(*first), reflect.ValueOf(*next)
	for i := range a.NumField() {
		name := a.Type().Field(i).Name
		if !slices.Contains(liveFields, name) && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, keyOf(name))
		}
	}
	return keys
}

// keyOf makes state_dir of StateDir.
func keyOf(field string) string {
	var b strings.Builder
	for i, r := range field {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func byName(stores []config.Store) map[string]config.Store {
	m := make(map[string]config.Store, len(stores))
	for _, st := range stores {
		m[st.Name] = st
	}
	return m
}
