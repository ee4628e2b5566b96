-- Dials that were refused: a run may have nothing else, and then neither streams
-- nor, where none was chosen, a node.

-- +goose Up
ALTER TABLE runs ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN refused_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN refused_hop TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE runs DROP COLUMN refused;
ALTER TABLE runs DROP COLUMN refused_reason;
ALTER TABLE runs DROP COLUMN refused_hop;
