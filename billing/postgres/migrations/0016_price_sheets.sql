-- +goose Up
-- At which rates requests were priced, each set of them once. They are found by
-- the SHA-256 of their text.
CREATE TABLE price_sheets (
	hash bytea PRIMARY KEY CHECK (length(hash) = 32),
	text text NOT NULL
);

CREATE TRIGGER price_sheets_no_update BEFORE UPDATE ON price_sheets
	FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER price_sheets_no_delete BEFORE DELETE ON price_sheets
	FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER price_sheets_no_truncate BEFORE TRUNCATE ON price_sheets
	FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The hash of the sheet; '' for requests without a price, and for those before
-- there were sheets.
ALTER TABLE requests ADD COLUMN price_sheet bytea NOT NULL DEFAULT '';

-- The address that a text is, or NULL: rows may hold any text.
-- +goose StatementBegin
CREATE FUNCTION address_of(text) RETURNS inet LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
	RETURN $1::inet;
EXCEPTION WHEN invalid_text_representation THEN
	RETURN NULL;
END
$$;
-- +goose StatementEnd
