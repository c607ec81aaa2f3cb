-- +goose Up
-- Requests are kept in partitions by month, so that old ones can be dropped
-- whole. The partitions are ranges of ids, which are made from the times of
-- arrival: so the primary key stays what it is, and a range of ids is looked
-- for in its months alone.

-- +goose StatementBegin
-- request_id_floor is the least id that a request of a time may have.
CREATE FUNCTION request_id_floor(at timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT 'req_' || string_agg(
		substr('0123456789abcdefghjkmnpqrstvwxyz', (((greatest(0, floor(extract(epoch FROM at) * 1000))::bigint << 2) >> (45 - 5 * n)) & 31)::integer + 1, 1),
		'' ORDER BY n) || repeat('0', 16)
	FROM generate_series(0, 9) AS n
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- request_id_time is its inverse, to the millisecond.
CREATE FUNCTION request_id_time(id text) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
	SELECT to_timestamp((sum((strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(id, 5 + n, 1)) - 1)::bigint << (45 - 5 * n))::bigint >> 2) / 1000.0)
	FROM generate_series(0, 9) AS n
$$;
-- +goose StatementEnd

-- One row: requests of lower ids that arrived before are dropped. It only ever
-- rises.
CREATE TABLE requests_kept (
	id        integer PRIMARY KEY CHECK (id = 1),
	first_id  text COLLATE "C" NOT NULL,
	kept_from timestamptz CHECK ((kept_from IS NULL) = (first_id = '')),
	-- How many requests were posted to partitions that are about to be dropped.
	late      bigint NOT NULL
);

INSERT INTO requests_kept (id, first_id, late) VALUES (1, '', 0);

-- +goose StatementBegin
CREATE FUNCTION refuse_to_keep_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' OR NEW.first_id < OLD.first_id OR NEW.kept_from < OLD.kept_from OR NEW.late < OLD.late THEN
		RAISE EXCEPTION 'what is dropped cannot be kept again';
	END IF;
	RETURN NEW;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER requests_kept_rises BEFORE UPDATE OR DELETE ON requests_kept
	FOR EACH ROW EXECUTE FUNCTION refuse_to_keep_more();

-- What the requests that are dropped add up to, by quarters of hours, in the
-- place of their rows.
CREATE TABLE dropped_requests (
	organization_id   text COLLATE "C" NOT NULL,
	start             timestamptz NOT NULL,
	key_id            text COLLATE "C" NOT NULL,
	project           text COLLATE "C" NOT NULL,
	provider          text COLLATE "C" NOT NULL,
	model             text COLLATE "C" NOT NULL,
	requests          bigint NOT NULL,
	prompt_tokens     bigint NOT NULL,
	completion_tokens bigint NOT NULL,
	cached_tokens     bigint NOT NULL,
	reasoning_tokens  bigint NOT NULL,
	cost              bigint NOT NULL,
	market_cost       bigint NOT NULL,
	-- How many of them have a debit.
	debits            bigint NOT NULL,
	PRIMARY KEY (organization_id, start, key_id, project, provider, model)
);

-- +goose StatementBegin
-- Requests that are kept cannot be deleted, whoever tries.
CREATE FUNCTION refuse_request_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM requests_kept WHERE OLD.request_id < first_id AND OLD.arrived_at < kept_from) THEN
		RAISE EXCEPTION '% are append-only', TG_TABLE_NAME;
	END IF;
	RETURN OLD;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- A request that may be among those that are dropped is posted again, if it has
-- its debit, or may be: what cost nothing has none, and none is to be counted
-- twice. Such a one is left alone, like one whose row is there.
CREATE FUNCTION refuse_dropped_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM requests_kept WHERE NEW.request_id < first_id AND NEW.arrived_at < kept_from)
		AND (NEW.cost = 0 OR EXISTS (
			SELECT FROM entries
			WHERE organization_id = NEW.organization_id AND idempotency_key = 'req:' || NEW.request_id))
	THEN
		RETURN NULL;
	END IF;
	RETURN NEW;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION count_late_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE requests_kept SET late = late + 1;
	RETURN NEW;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- guard_rows lets a session that acts for one organization see and write no
-- rows of another. It is for the owner of the table, too.
CREATE FUNCTION guard_rows(guarded regclass, organization name) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', guarded);
	EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', guarded);
	EXECUTE format('CREATE POLICY own_organization ON %s USING ('
		'(SELECT coalesce(current_setting(''llm_gateway.organization'', true), '''')) IN ('''', %I))', guarded, organization);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- guard_requests gives a partition what it does not have from its table.
CREATE FUNCTION guard_requests(partition regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TRIGGER requests_no_truncate BEFORE TRUNCATE ON %s '
		'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', partition);
	PERFORM guard_rows(partition, 'organization_id');
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- The table of before becomes the first partition: nothing is copied, but it is
-- read once, to see that no id in it is of a later month. What has such an id,
-- be it because a clock was wrong, goes to the default partition.
DO $$
DECLARE
	month       timestamptz := (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
	columns     text;
	indexes     text[];
	constraints text[];
	statement   text;
	old         record;
BEGIN
	LOCK TABLE requests IN ACCESS EXCLUSIVE MODE;
	SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
		WHERE attrelid = 'requests'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
	SELECT array_agg(pg_get_indexdef(indexrelid)) INTO indexes FROM pg_index
		WHERE indrelid = 'requests'::regclass AND NOT indisprimary;
	SELECT array_agg(format('ALTER TABLE requests ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))) INTO constraints
		FROM pg_constraint WHERE conrelid = 'requests'::regclass AND contype IN ('p', 'f');

	DROP TRIGGER requests_no_update ON requests;
	DROP TRIGGER requests_no_delete ON requests;
	DROP TRIGGER requests_no_truncate ON requests;
	ALTER TABLE requests RENAME TO requests_first;
	FOR old IN SELECT indexrelid::regclass AS index, relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
		WHERE indrelid = 'requests_first'::regclass
	LOOP
		EXECUTE format('ALTER INDEX %s RENAME TO %I', old.index, 'first_' || old.relname);
	END LOOP;

	CREATE TABLE requests (LIKE requests_first INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE)
		PARTITION BY RANGE (request_id);
	FOREACH statement IN ARRAY constraints || coalesce(indexes, '{}') LOOP
		EXECUTE statement;
	END LOOP;
	CREATE TABLE requests_default PARTITION OF requests DEFAULT;
	EXECUTE format('WITH later AS (DELETE FROM requests_first WHERE request_id >= %L RETURNING *) '
		'INSERT INTO requests_default (%s) SELECT %2$s FROM later', request_id_floor(month), columns);
	EXECUTE format('ALTER TABLE requests ATTACH PARTITION requests_first FOR VALUES FROM (MINVALUE) TO (%L)', request_id_floor(month));

	CREATE TRIGGER requests_no_update BEFORE UPDATE ON requests
		FOR EACH ROW EXECUTE FUNCTION refuse_change();
	CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests
		FOR EACH ROW EXECUTE FUNCTION refuse_request_delete();
	CREATE TRIGGER requests_no_truncate BEFORE TRUNCATE ON requests
		FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
	-- The ids of dropped partitions are in none but this one.
	CREATE TRIGGER requests_not_dropped BEFORE INSERT ON requests_default
		FOR EACH ROW EXECUTE FUNCTION refuse_dropped_request();
	PERFORM guard_requests('requests_first');
	PERFORM guard_requests('requests_default');
END
$$;
-- +goose StatementEnd

-- The partitions and their ranges of ids. The first has no first_id, the default
-- no range.
CREATE VIEW request_partitions AS
SELECT c.relname AS name,
	substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''([^'']*)''\)') COLLATE "C" AS first_id,
	substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']*)''\)') COLLATE "C" AS end_id
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'requests'::regclass;

-- +goose StatementBegin
-- make_request_partitions makes the partitions up to some months after this
-- one, and returns the names of those that it made. What the default partition
-- has of them, be it because a clock was wrong, moves. Posts do not wait for it.
CREATE FUNCTION make_request_partitions(ahead integer) RETURNS SETOF text LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
	last    timestamp := date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead);
	month   timestamp;
	first   text;
	after   text;
	name    text;
	columns text;
BEGIN
	IF NOT pg_try_advisory_xact_lock(hashtext('llm_gateway.request_partitions')) THEN
		RETURN;
	END IF;
	SELECT request_id_time(max(end_id)) AT TIME ZONE 'UTC' INTO month FROM request_partitions;
	IF month > last THEN
		RETURN;
	END IF;
	SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
		WHERE attrelid = 'requests'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
	LOCK TABLE requests_default IN ACCESS EXCLUSIVE MODE;
	WHILE month <= last LOOP
		name := 'requests_' || to_char(month, 'YYYY_MM');
		first := request_id_floor(month AT TIME ZONE 'UTC');
		after := request_id_floor((month + interval '1 month') AT TIME ZONE 'UTC');
		EXECUTE format('CREATE TABLE %I (LIKE requests INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE)', name);
		IF EXISTS (SELECT FROM requests_default WHERE request_id >= first AND request_id < after) THEN
			ALTER TABLE requests_default DISABLE TRIGGER requests_no_delete;
			EXECUTE format('WITH moved AS (DELETE FROM requests_default WHERE request_id >= %L AND request_id < %L RETURNING *) '
				'INSERT INTO %I (%s) SELECT %4$s FROM moved', first, after, name, columns);
			ALTER TABLE requests_default ENABLE TRIGGER requests_no_delete;
		END IF;
		EXECUTE format('ALTER TABLE requests ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first, after);
		PERFORM guard_requests(format('%I', name)::regclass);
		RETURN NEXT name;
		month := month + interval '1 month';
	END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- watch_request_partition counts what is posted to a partition from now on.
CREATE FUNCTION watch_request_partition(name text) RETURNS void LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
BEGIN
	EXECUTE format('DROP TRIGGER IF EXISTS requests_late ON %I', name);
	EXECUTE format('CREATE TRIGGER requests_late BEFORE INSERT ON %I FOR EACH ROW EXECUTE FUNCTION count_late_request()', name);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- drop_request_partition drops a partition but for some of its requests, unless
-- requests were posted since there had been that many late ones. It returns
-- whether it has. Posts wait no longer than for a lock that is not given.
CREATE FUNCTION drop_request_partition(name text, late_before bigint, keep_organizations text[], keep_ids text[])
RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '250ms' AS $$
DECLARE
	after   text;
	columns text;
BEGIN
	LOCK TABLE ONLY requests IN ACCESS EXCLUSIVE MODE;
	IF (SELECT late FROM requests_kept) <> late_before THEN
		RETURN false;
	END IF;
	SELECT p.end_id INTO STRICT after FROM request_partitions p WHERE p.name = drop_request_partition.name;
	EXECUTE format('ALTER TABLE requests DETACH PARTITION %I', name);
	IF cardinality(keep_ids) > 0 THEN
		SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
			WHERE attrelid = 'requests'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
		EXECUTE format('INSERT INTO requests (%s) SELECT %1$s FROM %I '
			'WHERE (organization_id, request_id) IN (SELECT * FROM unnest($1, $2))', columns, name)
			USING keep_organizations, keep_ids;
	END IF;
	UPDATE requests_kept SET first_id = after, kept_from = request_id_time(after);
	EXECUTE format('DROP TABLE %I', name);
	RETURN true;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- The second wall between organizations, on all that is asked for one of them.
-- Leases, quotas and proofs are the business of nodes alone.
DO $$
DECLARE
	guarded regclass;
BEGIN
	PERFORM guard_rows('organizations', 'id');
	FOR guarded IN
		SELECT c.oid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'requests'::regclass)
			AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND a.attname = 'organization_id' AND NOT a.attisdropped
			AND c.relname NOT IN ('leases', 'quotas', 'verified_ledgers', 'verified_hours')
	LOOP
		PERFORM guard_rows(guarded, 'organization_id');
	END LOOP;
END
$$;
-- +goose StatementEnd
