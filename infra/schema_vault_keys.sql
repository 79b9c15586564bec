-- The keys that personal values are sealed under, each wrapped by a key-encryption key that no database ever holds.
-- These tables may stand in a database of their own (AUREUS_VAULT_KEYS_URL), so that no copy of the ledger's opens anything.
CREATE SCHEMA IF NOT EXISTS vault;
CREATE TABLE IF NOT EXISTS vault.keys (
    tenant  text  NOT NULL,
    subject text  NOT NULL,
    purpose text  NOT NULL,
    wrapped bytea NOT NULL,
    PRIMARY KEY (tenant, subject, purpose)
);
-- Which key-encryption key wraps it; '' in rows from before there could be several: then it is that of vault.key.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'vault.keys'::regclass AND attname = 'kek') THEN
        ALTER TABLE vault.keys ADD COLUMN kek text NOT NULL DEFAULT '';
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS keys_kek ON vault.keys (kek);

-- One row: whose keys these are, and what wraps new ones. Whoever adds a key shares it, so a rotation overtakes nobody.
CREATE TABLE IF NOT EXISTS vault.wrapping (
    one    boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    ledger text    NOT NULL,
    kek    text    NOT NULL
);
GRANT USAGE ON SCHEMA vault TO aureus_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON vault.keys TO aureus_app;
GRANT SELECT, INSERT, UPDATE ON vault.wrapping TO aureus_app;
