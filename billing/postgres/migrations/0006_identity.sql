-- +goose Up

-- Which database this is. A journal belongs to one, and must not be posted to
-- another. A restored backup is the same database.
CREATE TABLE identity (
	id       integer PRIMARY KEY CHECK (id = 1),
	database text NOT NULL
);

INSERT INTO identity (id, database) VALUES (1, 'db_' || replace(gen_random_uuid()::text, '-', ''));
