package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	epoch       int64
}

// Presence is what a relay says of a node.
type Presence struct {
	Relay                 string // its name
	Tenant, Gateway, Node string
	Online                bool   // it has a session there
	Detail                string // the relays'
}

// Peers registers this relay and knows the others. Its methods belong to one
// goroutine.
type Peers struct {
	state       *State
	self        Relay
	home        string
	incarnation string
	read        map[string]reading // of each relay's presence
}

// reading is how far another relay's presence was read.
type reading struct {
	incarnation string
	epoch       int64
}

// Sight is what Refresh found.
type Sight struct {
	Relays []Relay // that are alive or were a short while ago, by name
	// Anew are the relays of which all that was known is out of date, Changed what
	// the others said since the last time.
	Anew    []string
	Changed []Presence
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
	p := &Peers{state: s, self: self, home: home, incarnation: incarnation, read: make(map[string]reading)}
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

// register writes the relay's row, and forgets what it said of nodes before.
func (p *Peers) register(ctx context.Context) error {
	ctx, cancel := bounded(ctx, p.state.engine)
	defer cancel()
	tx, err := p.state.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after Commit
	result, err := tx.ExecContext(ctx, `INSERT INTO relays (name, home, incarnation, host, ports, epoch, seen, mac)
		VALUES ($1, $2, $3, $4, $5, 1, `+databaseNow+`, $6)
		ON CONFLICT (name) DO UPDATE SET home = excluded.home, incarnation = excluded.incarnation, host = excluded.host,
			ports = excluded.ports, epoch = relays.epoch + 1, seen = excluded.seen, mac = excluded.mac
		WHERE relays.home = excluded.home OR relays.seen < excluded.seen - $7`,
		p.self.Name, p.home, p.incarnation, p.self.Host, p.self.Ports, p.seal(p.self).String(), relayFresh.Microseconds())
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, p.taken())
	}
	// Of this relay, and of the name that it had before its hostname was changed.
	for _, forget := range []string{
		"DELETE FROM presence WHERE relay IN (SELECT name FROM relays WHERE home = $1)",
		"DELETE FROM relays WHERE home = $1 AND incarnation <> $2",
	} {
		args := []any{p.home, p.incarnation}
		if _, err := tx.ExecContext(ctx, forget, args[:strings.Count(forget, "$")]...); err != nil {
			return err
		}
	}
	if err := p.tell(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// tell has the other relays look.
func (p *Peers) tell(ctx context.Context, tx execer) error {
	_, err := tx.ExecContext(ctx, "SELECT pg_notify($1, $2)", channel(p.state.Instance()), tellPresence)
	return err
}

// tellPresence is what is told where only tables of this file changed.
const tellPresence = "presence"

// Changed has a value when another relay told of a change.
func (p *Peers) Changed() <-chan struct{} { return p.state.peersChanged }

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

// Refresh tells the others that this relay is alive, and looks what they say.
// anew: this relay's own presence was lost, because others took it for dead; all
// of it is to be published again.
func (p *Peers) Refresh(ctx context.Context) (found Sight, anew bool, err error) {
	ctx, cancel := bounded(ctx, p.state.engine)
	defer cancel()
	result, err := p.state.db.ExecContext(ctx, "UPDATE relays SET seen = "+databaseNow+" WHERE name = $1 AND home = $2 AND incarnation = $3",
		p.self.Name, p.home, p.incarnation)
	if err != nil {
		return Sight{}, false, err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		if err := p.register(ctx); err != nil {
			return Sight{}, false, err
		}
		anew = true
	}
	if found.Relays, err = p.relays(ctx); err != nil {
		return Sight{}, anew, err
	}
	for _, r := range found.Relays {
		last := p.read[r.Name]
		if r.Name == p.self.Name || last == (reading{r.incarnation, r.epoch}) {
			continue
		}
		if last.incarnation != r.incarnation {
			last.epoch = 0
			found.Anew = append(found.Anew, r.Name)
		}
		said, err := p.presence(ctx, r.Name, last.epoch)
		if err != nil {
			p.read = make(map[string]reading) // what was found is lost
			return Sight{}, anew, err
		}
		found.Changed = append(found.Changed, said...)
		p.read[r.Name] = reading{r.incarnation, r.epoch}
	}
	return found, anew, nil
}

func (p *Peers) relays(ctx context.Context) (list []Relay, err error) {
	found, err := p.state.db.QueryContext(ctx, "SELECT name, host, ports, mac, incarnation, epoch, "+databaseNow+" - seen FROM relays ORDER BY name")
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var r Relay
		var mac string
		var age int64
		if err := found.Scan(&r.Name, &r.Host, &r.Ports, &mac, &r.incarnation, &r.epoch, &age); err != nil {
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

// presence reads what a relay said after an epoch.
func (p *Peers) presence(ctx context.Context, relay string, after int64) (list []Presence, err error) {
	found, err := p.state.db.QueryContext(ctx, "SELECT tenant, gateway, node, online, detail, mac FROM presence WHERE relay = $1 AND epoch > $2", relay, after)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		said := Presence{Relay: relay}
		var online int64
		var mac string
		if err := found.Scan(&said.Tenant, &said.Gateway, &said.Node, &online, &said.Detail, &mac); err != nil {
			return nil, err
		}
		said.Online = online != 0
		if mac != p.sealPresence(said).String() {
			p.state.opt.logger().Debug("state: a row of presence has a broken seal", "relay", relay, "node", said.Node)
			continue
		}
		list = append(list, said)
	}
	return list, found.Err()
}

func (p *Peers) sealPresence(said Presence) seal {
	return p.state.keys.row(tablePresence, map[string]any{
		"relay": said.Relay, "tenant": said.Tenant, "gateway": said.Gateway, "node": said.Node, "online": asNumber(said.Online), "detail": said.Detail,
	})
}

func asNumber(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// publishRows is how many rows one statement writes.
const publishRows = 100

// Publish says something of this relay's nodes; the last word of each holds.
func (p *Peers) Publish(ctx context.Context, list []Presence) error {
	ctx, cancel := bounded(ctx, p.state.engine)
	defer cancel()
	tx, err := p.state.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after Commit
	var epoch int64
	err = tx.QueryRowContext(ctx, "UPDATE relays SET epoch = epoch + 1, seen = "+databaseNow+" WHERE name = $1 AND home = $2 AND incarnation = $3 RETURNING epoch",
		p.self.Name, p.home, p.incarnation).Scan(&epoch)
	if err != nil {
		return err // none: the next Refresh registers this relay again
	}
	for part := range slices.Chunk(list, publishRows) {
		if err := p.write(ctx, tx, epoch, part); err != nil {
			return err
		}
	}
	if err := p.tell(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

func (p *Peers) write(ctx context.Context, tx execer, epoch int64, list []Presence) error {
	var values []string
	args := []any{p.self.Name, epoch}
	for _, said := range list {
		said.Relay = p.self.Name
		n := len(args)
		values = append(values, fmt.Sprintf("($1, $%d, $%d, $%d, $%d, $%d, $2, $%d)", n+1, n+2, n+3, n+4, n+5, n+6))
		args = append(args, said.Tenant, said.Gateway, said.Node, asNumber(said.Online), said.Detail, p.sealPresence(said).String())
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO presence (relay, tenant, gateway, node, online, detail, epoch, mac) VALUES "+strings.Join(values, ", ")+
		" ON CONFLICT (relay, tenant, gateway, node) DO UPDATE SET online = excluded.online, detail = excluded.detail, epoch = excluded.epoch, mac = excluded.mac", args...)
	return err
}

// Leave says that this relay stops. It is told to connectors and clients for a
// while longer: it may come back.
func (p *Peers) Leave(ctx context.Context) error {
	ctx, cancel := bounded(ctx, p.state.engine)
	defer cancel()
	_, err := p.state.db.ExecContext(ctx, "UPDATE relays SET seen = seen - $1 WHERE name = $2 AND home = $3 AND incarnation = $4",
		relayFresh.Microseconds(), p.self.Name, p.home, p.incarnation)
	if err != nil {
		return err
	}
	return p.tell(ctx, p.state.db)
}
