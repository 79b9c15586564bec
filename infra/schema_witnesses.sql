-- What others say about checkpoints: cosignatures of witnesses, and tokens of timestamp authorities. Append-only, as the ledger
-- is; every line and token proves itself, so nothing here is believed for standing here.
CREATE TABLE IF NOT EXISTS ledger.cosignatures (
    size    bigint      NOT NULL CHECK (size > 0),
    witness text        NOT NULL,
    line    bytea       NOT NULL,
    at      timestamptz NOT NULL,
    PRIMARY KEY (size, witness)
);
CREATE INDEX IF NOT EXISTS cosignatures_of ON ledger.cosignatures (witness, size);

CREATE TABLE IF NOT EXISTS ledger.timestamps (
    size      bigint      NOT NULL CHECK (size > 0),
    authority text        NOT NULL,
    token     bytea       NOT NULL,
    at        timestamptz NOT NULL,
    PRIMARY KEY (size, authority)
);

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['cosignatures', 'timestamps'] LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON ledger.%I FOR EACH ROW EXECUTE FUNCTION ledger.refuse()', name);
        EXECUTE format('CREATE OR REPLACE TRIGGER no_truncate BEFORE TRUNCATE ON ledger.%I FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse()', name);
        EXECUTE format('ALTER TABLE ledger.%I ENABLE ALWAYS TRIGGER append_only', name);
        EXECUTE format('ALTER TABLE ledger.%I ENABLE ALWAYS TRIGGER no_truncate', name);
        EXECUTE format('GRANT SELECT, INSERT ON ledger.%I TO aureus_app', name);
    END LOOP;
END $$;
