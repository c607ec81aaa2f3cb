-- +goose Up
-- What is leased of one limit, in whatever period.
CREATE INDEX leases_by_subject ON leases (organization_id, subject, kind);
