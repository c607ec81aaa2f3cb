-- +goose Up
-- At which rates requests were priced, each set of them once. They are found by
-- the SHA-256 of their text.
CREATE TABLE price_sheets (
	hash BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	text TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER price_sheets_no_update BEFORE UPDATE ON price_sheets
BEGIN
	SELECT RAISE(ABORT, 'price sheets are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER price_sheets_no_delete BEFORE DELETE ON price_sheets
BEGIN
	SELECT RAISE(ABORT, 'price sheets are append-only');
END;
-- +goose StatementEnd

-- The hash of the sheet; x'' for requests without a price, and for those before
-- there were sheets.
ALTER TABLE requests ADD COLUMN price_sheet BLOB NOT NULL DEFAULT x'';
