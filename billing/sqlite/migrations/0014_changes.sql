-- +goose Up
-- Who changed what. Times are Unix microseconds; before and after are JSON
-- objects, NULL for what was not there. organization_id is '' for what belongs to
-- the gateway itself.
CREATE TABLE changes (
	seq             INTEGER PRIMARY KEY,
	id              TEXT NOT NULL UNIQUE,
	organization_id TEXT NOT NULL,
	at              INTEGER NOT NULL,
	actor_kind      TEXT NOT NULL,
	actor_id        TEXT NOT NULL,
	actor_name      TEXT NOT NULL,
	client_ip       TEXT NOT NULL,
	user_agent      TEXT NOT NULL,
	action          TEXT NOT NULL,
	subject_kind    TEXT NOT NULL,
	subject_id      TEXT NOT NULL,
	before          TEXT CHECK (json_valid(before)),
	after           TEXT CHECK (json_valid(after))
) STRICT;

CREATE INDEX changes_by_organization ON changes (organization_id, seq);
CREATE INDEX changes_by_subject ON changes (organization_id, subject_id, seq);

-- +goose StatementBegin
CREATE TRIGGER changes_no_update BEFORE UPDATE ON changes
BEGIN
	SELECT RAISE(ABORT, 'changes are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER changes_no_delete BEFORE DELETE ON changes
BEGIN
	SELECT RAISE(ABORT, 'changes are append-only');
END;
-- +goose StatementEnd
