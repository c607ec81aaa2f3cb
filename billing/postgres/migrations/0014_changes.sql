-- +goose Up
-- Who changed what. before and after are JSON objects as they were written, NULL
-- for what was not there. organization_id is '' for what belongs to the gateway
-- itself. Who changes a subject again waits for the transaction that did before,
-- so that seq is in the order of the changes, whatever the nodes' clocks say.
CREATE TABLE changes (
	seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	id              text COLLATE "C" NOT NULL UNIQUE,
	organization_id text COLLATE "C" NOT NULL,
	at              timestamptz NOT NULL,
	actor_kind      text NOT NULL,
	actor_id        text COLLATE "C" NOT NULL,
	actor_name      text COLLATE "C" NOT NULL,
	client_ip       text NOT NULL,
	user_agent      text NOT NULL,
	action          text COLLATE "C" NOT NULL,
	subject_kind    text COLLATE "C" NOT NULL,
	subject_id      text COLLATE "C" NOT NULL,
	before          json,
	after           json
);

CREATE INDEX changes_by_organization ON changes (organization_id, seq);
CREATE INDEX changes_by_subject ON changes (organization_id, subject_id, seq);

CREATE TRIGGER changes_no_update BEFORE UPDATE ON changes
	FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER changes_no_delete BEFORE DELETE ON changes
	FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER changes_no_truncate BEFORE TRUNCATE ON changes
	FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
