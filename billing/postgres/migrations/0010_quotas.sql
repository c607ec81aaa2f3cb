-- +goose Up
-- What nodes have been granted of requests and tokens a minute and of open
-- requests, and what they have used of it. window_start is the minute, or
-- 0001-01-01 for what has none.
CREATE TABLE quotas (
	kind            text COLLATE "C" NOT NULL,
	organization_id text COLLATE "C" NOT NULL,
	subject         text COLLATE "C" NOT NULL,
	window_start    timestamptz NOT NULL,
	node            text COLLATE "C" NOT NULL,
	granted         bigint NOT NULL CHECK (granted >= 0),
	used            bigint NOT NULL CHECK (used >= 0),
	-- Of the draw that wrote the row.
	serial          bigint NOT NULL,
	PRIMARY KEY (kind, organization_id, subject, window_start, node)
) WITH (fillfactor = 50);

CREATE INDEX quotas_by_window ON quotas (window_start);
CREATE INDEX quotas_by_node ON quotas (node);
