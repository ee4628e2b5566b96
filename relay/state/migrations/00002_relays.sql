-- The relays that share this database, and which nodes have a session at which
-- of them. Only PostgreSQL has rows here. They are not part of the identity: they
-- are written often, are worth nothing after a minute, and have no revision.
-- epoch grows with each of a relay's changes of presence; seen is the database's
-- clock, in microseconds; mac seals what a relay says of itself and of nodes.

-- +goose Up
CREATE TABLE relays (
    name        TEXT   NOT NULL PRIMARY KEY,
    home        TEXT   NOT NULL,
    incarnation TEXT   NOT NULL,
    host        TEXT   NOT NULL,
    ports       TEXT   NOT NULL,
    epoch       BIGINT NOT NULL,
    seen        BIGINT NOT NULL,
    mac         TEXT   NOT NULL
);

CREATE TABLE presence (
    relay   TEXT   NOT NULL REFERENCES relays (name),
    tenant  TEXT   NOT NULL,
    gateway TEXT   NOT NULL,
    node    TEXT   NOT NULL,
    online  BIGINT NOT NULL,
    detail  TEXT   NOT NULL,
    epoch   BIGINT NOT NULL,
    mac     TEXT   NOT NULL,
    PRIMARY KEY (relay, tenant, gateway, node)
);

-- +goose Down
DROP TABLE presence;
DROP TABLE relays;
