-- +goose Up
-- One row: requests of lower ids that arrived before are dropped. It only ever
-- rises.
CREATE TABLE requests_kept (
	id        INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
	first_id  TEXT NOT NULL,
	kept_from INTEGER CHECK ((kept_from IS NULL) = (first_id = ''))
) STRICT;

INSERT INTO requests_kept (id, first_id) VALUES (1, '');

-- +goose StatementBegin
CREATE TRIGGER requests_kept_rises BEFORE UPDATE ON requests_kept
WHEN new.first_id < old.first_id OR new.kept_from < old.kept_from
BEGIN
	SELECT RAISE(ABORT, 'what is dropped cannot be kept again');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER requests_kept_stays BEFORE DELETE ON requests_kept
BEGIN
	SELECT RAISE(ABORT, 'what is dropped cannot be kept again');
END;
-- +goose StatementEnd

-- What the requests that are dropped add up to, by quarters of hours, in the
-- place of their rows.
CREATE TABLE dropped_requests (
	organization_id   TEXT NOT NULL,
	start             INTEGER NOT NULL,
	key_id            TEXT NOT NULL,
	project           TEXT NOT NULL,
	provider          TEXT NOT NULL,
	model             TEXT NOT NULL,
	requests          INTEGER NOT NULL,
	prompt_tokens     INTEGER NOT NULL,
	completion_tokens INTEGER NOT NULL,
	cached_tokens     INTEGER NOT NULL,
	reasoning_tokens  INTEGER NOT NULL,
	cost              INTEGER NOT NULL,
	market_cost       INTEGER NOT NULL,
	-- How many of them have a debit.
	debits            INTEGER NOT NULL,
	PRIMARY KEY (organization_id, start, key_id, project, provider, model)
) STRICT, WITHOUT ROWID;

DROP TRIGGER requests_no_delete;

-- +goose StatementBegin
-- Requests that are kept cannot be deleted, whoever tries.
CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests
WHEN NOT EXISTS (SELECT 1 FROM requests_kept WHERE old.request_id < first_id AND old.arrived_at < kept_from)
BEGIN
	SELECT RAISE(ABORT, 'requests are append-only');
END;
-- +goose StatementEnd
