-- +goose Up
-- The people in organizations. Who is invited has no identity yet; issuer and
-- subject are those of the identity that has joined.
CREATE TABLE members (
	organization_id text COLLATE "C" NOT NULL REFERENCES organizations (id),
	id              text COLLATE "C" NOT NULL,
	-- In lower case, as far as it is ASCII.
	email           text COLLATE "C" NOT NULL CHECK (email <> ''),
	name            text NOT NULL,
	role            text NOT NULL CHECK (role IN ('owner', 'admin', 'developer', 'finance', 'viewer')),
	issuer          text COLLATE "C" NOT NULL,
	subject         text COLLATE "C" NOT NULL,
	invited_by      text NOT NULL,
	created_at      timestamptz NOT NULL,
	joined_at       timestamptz,
	PRIMARY KEY (organization_id, id),
	UNIQUE (organization_id, email),
	CHECK ((issuer = '') = (subject = '') AND (subject = '') = (joined_at IS NULL))
);

-- An identity is one member of an organization at most.
CREATE UNIQUE INDEX members_by_identity ON members (issuer, subject, organization_id) WHERE subject <> '';
CREATE INDEX members_by_invitation ON members (email) WHERE subject = '';

-- The member whose key it is, and who may have left; '' is the organization's.
ALTER TABLE keys ADD COLUMN owner text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX keys_by_owner ON keys (organization_id, owner, created_at, id);
