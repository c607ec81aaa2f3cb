-- +goose Up

-- Which database this is. A journal belongs to one, and must not be posted to
-- another. A restored backup is the same database.
CREATE TABLE identity (
	id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
	database TEXT NOT NULL
) STRICT;

INSERT INTO identity (id, database) VALUES (1, 'db_' || lower(hex(randomblob(16))));
