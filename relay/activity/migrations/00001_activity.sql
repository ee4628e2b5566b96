-- Activity. TEXT and BIGINT only, so that SQLite and PostgreSQL read it alike:
-- times are microseconds since 1970. A run is what one job did in one run with
-- one store by one node; its id is made of these names. A side of a stream whose
-- reason is empty has not reported.

-- +goose Up
CREATE TABLE runs (
    id            TEXT   NOT NULL PRIMARY KEY,
    tenant        TEXT   NOT NULL,
    job           TEXT   NOT NULL,
    run           TEXT   NOT NULL,
    gateway       TEXT   NOT NULL,
    node          TEXT   NOT NULL,
    store         TEXT   NOT NULL,
    started       BIGINT NOT NULL,
    ended         BIGINT NOT NULL,
    streams       BIGINT NOT NULL,
    bytes_read    BIGINT NOT NULL,
    bytes_written BIGINT NOT NULL,
    resumes       BIGINT NOT NULL,
    stalls        BIGINT NOT NULL,
    failed        BIGINT NOT NULL,
    lost          BIGINT NOT NULL,
    differ        BIGINT NOT NULL,
    one_sided     BIGINT NOT NULL,
    failed_reason TEXT   NOT NULL,
    failed_hop    TEXT   NOT NULL,
    lost_reason   TEXT   NOT NULL,
    lost_hop      TEXT   NOT NULL
);

CREATE INDEX runs_by_end ON runs (ended);
CREATE INDEX runs_by_tenant ON runs (tenant, ended, id);
CREATE INDEX runs_by_job ON runs (tenant, job, ended, id);
CREATE INDEX runs_by_gateway ON runs (tenant, gateway, ended, id);
CREATE INDEX runs_by_node ON runs (tenant, node, ended, id);

CREATE TABLE streams (
    run                 TEXT   NOT NULL,
    uuid                TEXT   NOT NULL,
    recorded            BIGINT NOT NULL,
    ingress_reason      TEXT   NOT NULL DEFAULT '',
    ingress_remote      BIGINT NOT NULL DEFAULT 0,
    ingress_started     BIGINT NOT NULL DEFAULT 0,
    ingress_ended       BIGINT NOT NULL DEFAULT 0,
    ingress_read        BIGINT NOT NULL DEFAULT 0,
    ingress_written     BIGINT NOT NULL DEFAULT 0,
    ingress_read_crc    BIGINT NOT NULL DEFAULT 0,
    ingress_written_crc BIGINT NOT NULL DEFAULT 0,
    ingress_resumes     BIGINT NOT NULL DEFAULT 0,
    ingress_stalls      BIGINT NOT NULL DEFAULT 0,
    ingress_lanes       BIGINT NOT NULL DEFAULT 0,
    node_reason         TEXT   NOT NULL DEFAULT '',
    node_remote         BIGINT NOT NULL DEFAULT 0,
    node_started        BIGINT NOT NULL DEFAULT 0,
    node_ended          BIGINT NOT NULL DEFAULT 0,
    node_read           BIGINT NOT NULL DEFAULT 0,
    node_written        BIGINT NOT NULL DEFAULT 0,
    node_read_crc       BIGINT NOT NULL DEFAULT 0,
    node_written_crc    BIGINT NOT NULL DEFAULT 0,
    node_resumes        BIGINT NOT NULL DEFAULT 0,
    node_stalls         BIGINT NOT NULL DEFAULT 0,
    node_lanes          BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (run, uuid)
);

CREATE INDEX streams_by_recorded ON streams (recorded);

-- +goose Down
DROP TABLE streams;
DROP TABLE runs;
