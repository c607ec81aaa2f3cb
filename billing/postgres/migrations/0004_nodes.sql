-- +goose Up
-- The gateways that share the books. Which of them are dead is found out by
-- watching beats: no decision depends on this server's clock.
CREATE TABLE nodes (
	id           text COLLATE "C" PRIMARY KEY,
	incarnation  text NOT NULL,
	host         text NOT NULL,
	version      text NOT NULL,
	started_at   timestamptz NOT NULL,
	seen_at      timestamptz NOT NULL,
	beats        bigint NOT NULL,
	lease_ttl_ns bigint NOT NULL,
	expired      boolean NOT NULL,
	unposted     bigint NOT NULL,
	lag_ns       bigint NOT NULL
) WITH (fillfactor = 50);
