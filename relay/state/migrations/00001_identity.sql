-- Identity. TEXT and BIGINT only, so that SQLite and PostgreSQL read it alike:
-- times are microseconds since 1970 (0: never), bytes are base64, secrets are
-- encrypted. revision is the instance's revision at the row's last change, mac
-- seals the row. A column that is empty or 0 is not part of the seal, so later
-- migrations may add columns with such defaults.

-- +goose Up
CREATE TABLE instance (
    id       TEXT   NOT NULL PRIMARY KEY,
    digest   TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    mac      TEXT   NOT NULL
);

CREATE TABLE authorities (
    generation  BIGINT NOT NULL PRIMARY KEY,
    phase       TEXT   NOT NULL,
    certificate TEXT   NOT NULL,
    secret      TEXT   NOT NULL,
    created     BIGINT NOT NULL,
    revision    BIGINT NOT NULL,
    mac         TEXT   NOT NULL
);

CREATE TABLE tenants (
    name     TEXT   NOT NULL PRIMARY KEY,
    created  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    mac      TEXT   NOT NULL
);

CREATE TABLE gateways (
    tenant   TEXT   NOT NULL REFERENCES tenants (name),
    name     TEXT   NOT NULL,
    id       TEXT   NOT NULL UNIQUE,
    key1     TEXT   NOT NULL,
    key2     TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    mac      TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE nodes (
    tenant       TEXT   NOT NULL,
    gateway      TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    public_key   TEXT   NOT NULL,
    previous_key TEXT   NOT NULL,
    counter      BIGINT NOT NULL,
    stores       TEXT   NOT NULL,
    created      BIGINT NOT NULL,
    revision     BIGINT NOT NULL,
    mac          TEXT   NOT NULL,
    PRIMARY KEY (tenant, gateway, name),
    FOREIGN KEY (tenant, gateway) REFERENCES gateways (tenant, name)
);

CREATE TABLE jobs (
    tenant   TEXT   NOT NULL REFERENCES tenants (name),
    name     TEXT   NOT NULL,
    token    TEXT   NOT NULL,
    allow    TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    revoked  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    mac      TEXT   NOT NULL,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE tokens (
    id       TEXT   NOT NULL PRIMARY KEY,
    tenant   TEXT   NOT NULL,
    job      TEXT   NOT NULL,
    hash     TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    revoked  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    mac      TEXT   NOT NULL,
    FOREIGN KEY (tenant, job) REFERENCES jobs (tenant, name)
);

-- +goose Down
DROP TABLE tokens;
DROP TABLE jobs;
DROP TABLE nodes;
DROP TABLE gateways;
DROP TABLE tenants;
DROP TABLE authorities;
DROP TABLE instance;
