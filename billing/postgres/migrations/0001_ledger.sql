-- +goose Up
-- Amounts are nano-USD. Ids are compared byte by byte, whatever the
-- database's collation: pages of lists depend on it.

CREATE TABLE organizations (
	id         text COLLATE "C" PRIMARY KEY,
	name       text NOT NULL,
	created_at timestamptz NOT NULL
);

CREATE TABLE keys (
	id                text COLLATE "C" PRIMARY KEY,
	organization_id   text COLLATE "C" NOT NULL REFERENCES organizations (id),
	name              text NOT NULL,
	hash              bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
	prefix            text NOT NULL,
	allowed_providers jsonb NOT NULL,
	allowed_models    jsonb NOT NULL,
	allowed_ips       jsonb NOT NULL,
	rate_limit_rpm    bigint NOT NULL,
	usage_limit       bigint,
	usage_limit_reset text NOT NULL,
	expires_at        timestamptz,
	revoked_at        timestamptz,
	created_at        timestamptz NOT NULL,
	last_used_at      timestamptz
);

CREATE INDEX keys_by_creation ON keys (organization_id, created_at, id);

-- One row, advanced by each change of a key.
CREATE TABLE keys_version (
	id      integer PRIMARY KEY CHECK (id = 1),
	version bigint NOT NULL
);

INSERT INTO keys_version (id, version) VALUES (1, 0);

-- One row a request: the audit trail. Neither organization nor key is a
-- foreign key: what was spent is recorded even if its owner is unknown here.
-- The ids are made from the times of arrival, so that what is sorted by id is
-- sorted by time too, and needs no index by time.
CREATE TABLE requests (
	organization_id         text COLLATE "C" NOT NULL,
	request_id              text COLLATE "C" NOT NULL,
	key_id                  text COLLATE "C" NOT NULL,
	key_name                text NOT NULL,
	arrived_at              timestamptz NOT NULL,
	provider                text COLLATE "C" NOT NULL,
	model                   text COLLATE "C" NOT NULL,
	endpoint                text NOT NULL,
	input_tokens            bigint NOT NULL,
	input_audio_tokens      bigint NOT NULL,
	input_image_tokens      bigint NOT NULL,
	cache_read_tokens       bigint NOT NULL,
	cache_read_audio_tokens bigint NOT NULL,
	cache_write_tokens      bigint NOT NULL,
	cache_write_long_tokens bigint NOT NULL,
	output_tokens           bigint NOT NULL,
	output_audio_tokens     bigint NOT NULL,
	output_image_tokens     bigint NOT NULL,
	web_searches            bigint NOT NULL,
	reasoning_tokens        bigint NOT NULL,
	usage_source            text NOT NULL,
	usage_mismatch          boolean NOT NULL,
	service_tier            text NOT NULL,
	cost                    bigint NOT NULL CHECK (cost >= 0),
	market_cost             bigint NOT NULL CHECK (market_cost >= 0),
	price_rule_id           text NOT NULL,
	latency_ns              bigint NOT NULL,
	ttfb_ns                 bigint NOT NULL,
	status                  bigint NOT NULL,
	error                   text NOT NULL,
	client_ip               text NOT NULL,
	user_agent              text NOT NULL,
	streaming               boolean NOT NULL,
	attempts                bigint NOT NULL,
	changes                 jsonb NOT NULL,
	recovered               boolean NOT NULL,
	-- SHA-256 of the content, by which a replay is told from a conflict.
	hash                    bytea NOT NULL CHECK (length(hash) = 32),
	prompt_tokens           bigint NOT NULL GENERATED ALWAYS AS (input_tokens + input_audio_tokens + input_image_tokens
		+ cache_read_tokens + cache_read_audio_tokens + cache_write_tokens + cache_write_long_tokens) STORED,
	completion_tokens       bigint NOT NULL GENERATED ALWAYS AS (output_tokens + output_audio_tokens + output_image_tokens) STORED,
	cached_tokens           bigint NOT NULL GENERATED ALWAYS AS (cache_read_tokens + cache_read_audio_tokens) STORED,
	PRIMARY KEY (organization_id, request_id)
);

CREATE INDEX requests_by_key ON requests (key_id, request_id);

-- The state of each organization's ledger. Whoever changes an organization's
-- books locks its row here first, several in the order of their ids.
CREATE TABLE accounts (
	organization_id text COLLATE "C" PRIMARY KEY,
	balance         bigint NOT NULL,
	entries         bigint NOT NULL
);

-- The ledger. An organization's entries are numbered from 1 without gaps.
CREATE TABLE entries (
	organization_id text COLLATE "C" NOT NULL,
	seq             bigint NOT NULL CHECK (seq > 0),
	type            text NOT NULL,
	amount          bigint NOT NULL CHECK (amount <> 0),
	balance_after   bigint NOT NULL,
	created_at      timestamptz NOT NULL,
	request_id      text COLLATE "C" NOT NULL,
	payment_id      text NOT NULL,
	reason          text NOT NULL,
	actor           text NOT NULL,
	idempotency_key text COLLATE "C" NOT NULL CHECK (idempotency_key <> ''),
	-- SHA-256 of what the entry was made from.
	hash            bytea NOT NULL CHECK (length(hash) = 32),
	PRIMARY KEY (organization_id, seq),
	-- One debit a request: its idempotency key is made from the request's id.
	CHECK (type <> 'usage_debit' OR amount < 0 AND idempotency_key = 'req:' || request_id)
);

CREATE UNIQUE INDEX entries_idempotency ON entries (organization_id, idempotency_key);

-- +goose StatementBegin
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION '% are append-only', TG_TABLE_NAME;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER requests_no_update BEFORE UPDATE ON requests
	FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests
	FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER requests_no_truncate BEFORE TRUNCATE ON requests
	FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
	FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
	FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entries_no_truncate BEFORE TRUNCATE ON entries
	FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
