package state

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The tables of relays and of which nodes are at which of them. They are not part
// of the identity.
const (
	tableRelays   = "relays"
	tablePresence = "presence"
)

var presenceTables = []string{tablePresence, tableRelays}

const (
	// relayFresh is for how long a relay that was seen counts as alive.
	relayFresh = 15 * time.Second
	// relayKept is for how long a relay that is not seen any more is told to
	// connectors and clients: it may be restarting.
	relayKept = time.Hour
	// databaseNow is the database's clock in microseconds: relays' clocks differ.
	databaseNow = "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"
)

// Relay is one of the relays that share a database.
type Relay struct {
	Name  string // of its identity
	Host  string
	Ports string // JSON; the caller's
	Alive bool   // it was seen in the last seconds

	incarnation string
}

// Peers registers this relay and knows the others. Its methods belong to one
// goroutine.
type Peers struct {
	state       *State
	self        Relay
	home        string
	incarnation string
}

const nameHome = "state.relay"

// Peers registers this relay, where there may be others; nil: there are none. A
// name that another relay has, which is alive, is an [ErrInUse].
func (s *State) Peers(ctx context.Context, self Relay, incarnation string) (*Peers, error) {
	if !s.engine.shared() {
		return nil, nil
	}
	home, err := s.home()
	if err != nil {
		return nil, err
	}
	p := &Peers{state: s, self: self, home: home, incarnation: incarnation}
	if err := p.register(ctx); err != nil {
		return nil, s.refused(ctx, err)
	}
	return p, nil
}

// home is a random name of this relay's directory: a relay that comes back from
// there is the same.
func (s *State) home() (string, error) {
	path := filepath.Join(s.files.dir, nameHome)
	raw, err := readFile(path)
	if os.IsNotExist(err) {
		id := newID()
		if err = writeFile(path, []byte(id+"\n")); err == nil {
			return id, nil
		}
	}
	if err != nil {
		return "", unusable(path, err)
	}
	id := strings.TrimSpace(string(raw))
	if !validID(id) {
		return "", &CorruptError{Path: path, Reason: "it is damaged", advice: "remove the file, and start the relay again"}
	}
	return id, nil
}

// register writes the relay's row.
func (p *Peers) register(ctx context.Context) error {
	ctx, cancel := bounded(ctx, p.state.engine)
	defer cancel()
	result, err := p.state.db.ExecContext(ctx, `INSERT INTO relays (name, home, incarnation, host, ports, epoch, seen, mac)
		VALUES ($1, $2, $3, $4, $5, 1, `+databaseNow+`, $6)
		ON CONFLICT (name) DO UPDATE SET home = excluded.home, incarnation = excluded.incarnation, host = excluded.host,
			ports = excluded.ports, epoch = relays.epoch + 1, seen = excluded.seen, mac = excluded.mac
		WHERE relays.home = excluded.home OR relays.seen < excluded.seen - $7`,
		p.self.Name, p.home, p.incarnation, p.self.Host, p.self.Ports, p.seal(p.self).String(), relayFresh.Microseconds())
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return p.taken()
	}
	return nil
}

func (p *Peers) taken() error {
	return &Error{
		kind: ErrInUse, code: "relay-name-taken", message: fmt.Sprintf("another relay of this instance, with a state directory of its own, is named %s", p.self.Name),
		advice: "relays are named by their hostname in relay.yaml: give each its own; if that relay is gone for good, try again in " + relayFresh.String(),
	}
}

// seal is of what a relay says of itself.
func (p *Peers) seal(r Relay) seal {
	return p.state.keys.row(tableRelays, map[string]any{"name": r.Name, "host": r.Host, "ports": r.Ports})
}

// Refresh tells the others that this relay is alive, and gives all relays that
// are, or were a short while ago; sorted by name.
func (p *Peers) Refresh(ctx context.Context) (list []Relay, err error) {
	ctx, cancel := bounded(ctx, p.state.engine)
	defer cancel()
	result, err := p.state.db.ExecContext(ctx, "UPDATE relays SET seen = "+databaseNow+" WHERE name = $1 AND home = $2 AND incarnation = $3",
		p.self.Name, p.home, p.incarnation)
	if err != nil {
		return nil, err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		if err := p.register(ctx); err != nil {
			return nil, err
		}
	}
	return p.relays(ctx)
}

func (p *Peers) relays(ctx context.Context) (list []Relay, err error) {
	found, err := p.state.db.QueryContext(ctx, "SELECT name, host, ports, mac, incarnation, "+databaseNow+" - seen FROM relays ORDER BY name")
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var r Relay
		var mac string
		var age int64
		if err := found.Scan(&r.Name, &r.Host, &r.Ports, &mac, &r.incarnation, &age); err != nil {
			return nil, err
		}
		if mac != p.seal(r).String() {
			p.state.opt.logger().Debug("state: a relay's row has a broken seal", "relay", r.Name)
			continue
		}
		since := time.Duration(age) * time.Microsecond
		if r.Alive = since < relayFresh; since < relayKept {
			list = append(list, r)
		}
	}
	return list, found.Err()
}

// Leave says that this relay stops. It is told to connectors and clients for a
// while longer: it may come back.
func (p *Peers) Leave(ctx context.Context) error {
	ctx, cancel := bounded(ctx, p.state.engine)
	defer cancel()
	_, err := p.state.db.ExecContext(ctx, "UPDATE relays SET seen = seen - $1 WHERE name = $2 AND home = $3 AND incarnation = $4",
		relayFresh.Microseconds(), p.self.Name, p.home, p.incarnation)
	return err
}
