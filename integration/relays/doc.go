// Package relays tests several relays that share one database of PostgreSQL.
package relays
