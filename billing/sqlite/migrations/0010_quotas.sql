-- +goose Up
-- What nodes have been granted of requests and tokens a minute and of open
-- requests, and what they have used of it. window_start is the minute, or
-- 0001-01-01 for what has none.
CREATE TABLE quotas (
	kind            TEXT NOT NULL,
	organization_id TEXT NOT NULL,
	subject         TEXT NOT NULL,
	window_start    INTEGER NOT NULL,
	node            TEXT NOT NULL,
	granted         INTEGER NOT NULL CHECK (granted >= 0),
	used            INTEGER NOT NULL CHECK (used >= 0),
	-- Of the draw that wrote the row.
	serial          INTEGER NOT NULL,
	PRIMARY KEY (kind, organization_id, subject, window_start, node)
) STRICT, WITHOUT ROWID;

CREATE INDEX quotas_by_window ON quotas (window_start);
CREATE INDEX quotas_by_node ON quotas (node);
