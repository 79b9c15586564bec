-- How far each follower of the ledger has come: reactions, sagas, relays. Nothing else knows it, so backups hold it.
CREATE SCHEMA IF NOT EXISTS streams;
CREATE TABLE IF NOT EXISTS streams.positions (name text PRIMARY KEY, position bigint NOT NULL);
