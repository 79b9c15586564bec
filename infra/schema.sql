-- The ledger: append-only twice over. The application's role may only read and add, and triggers that fire even in
-- replication mode refuse everything else. Both slow a database owner down; the proofs are what catches one.
CREATE SCHEMA IF NOT EXISTS ledger;

CREATE TABLE IF NOT EXISTS ledger.events (
    position   bigint      NOT NULL PRIMARY KEY CHECK (position > 0),
    tenant     text        NOT NULL,
    stream     text        NOT NULL,
    version    bigint      NOT NULL CHECK (version > 0),
    type       text        NOT NULL,
    at         timestamptz NOT NULL,
    body       bytea       NOT NULL,
    signatures bytea       NOT NULL,
    leaf       bytea       NOT NULL CHECK (octet_length(leaf) = 32),
    UNIQUE (tenant, stream, version)
);
-- Bodies are base64-bound and signed: trying to compress them costs time and gains nothing worth it.
ALTER TABLE ledger.events ALTER COLUMN body SET STORAGE EXTERNAL;

-- One row: where the log ends. Whoever appends holds it, so positions have no gaps and one order.
CREATE TABLE IF NOT EXISTS ledger.head (
    one      boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    origin   text        NOT NULL,
    size     bigint      NOT NULL CHECK (size >= 0),
    root     bytea       NOT NULL,
    frontier bytea       NOT NULL,
    note     bytea       NOT NULL,
    at       timestamptz NOT NULL
) WITH (fillfactor = 10);

-- The signed checkpoint of every commit.
CREATE TABLE IF NOT EXISTS ledger.checkpoints (
    size bigint NOT NULL PRIMARY KEY,
    note bytea  NOT NULL
);

-- Idempotency keys, each with the digest of its request and the answer that was given.
CREATE TABLE IF NOT EXISTS ledger.requests (
    tenant text  NOT NULL,
    key    text  NOT NULL,
    digest bytea NOT NULL,
    answer bytea NOT NULL,
    PRIMARY KEY (tenant, key)
);

CREATE OR REPLACE FUNCTION ledger.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %.% is refused: the ledger is append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'Correct a fact by appending a compensating event.';
END $$;

DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['events', 'checkpoints', 'requests'] LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON ledger.%I FOR EACH ROW EXECUTE FUNCTION ledger.refuse()', name);
        EXECUTE format('CREATE OR REPLACE TRIGGER no_truncate BEFORE TRUNCATE ON ledger.%I FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse()', name);
        EXECUTE format('ALTER TABLE ledger.%I ENABLE ALWAYS TRIGGER append_only', name);
        EXECUTE format('ALTER TABLE ledger.%I ENABLE ALWAYS TRIGGER no_truncate', name);
    END LOOP;
    CREATE OR REPLACE TRIGGER one_head BEFORE DELETE ON ledger.head FOR EACH ROW EXECUTE FUNCTION ledger.refuse();
    ALTER TABLE ledger.head ENABLE ALWAYS TRIGGER one_head;
END $$;

-- A whole batch in one round trip and one transaction. False: the head is not where the batch was sealed upon.
CREATE OR REPLACE FUNCTION ledger.append(
    old_size bigint, old_root bytea, new_size bigint, new_root bytea, new_frontier bytea, new_note bytea, new_at timestamptz,
    tenants text[], streams text[], versions bigint[], types text[], bodies bytea[], signatures bytea[], leaves bytea[]
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger.head SET size = new_size, root = new_root, frontier = new_frontier, note = new_note, at = new_at
        WHERE size = old_size AND root = old_root;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO ledger.events
        SELECT old_size + row.number, row.tenant, row.stream, row.version, row.type, new_at, row.body, row.signature, row.leaf
        FROM unnest(tenants, streams, versions, types, bodies, signatures, leaves)
            WITH ORDINALITY AS row(tenant, stream, version, type, body, signature, leaf, number);
    INSERT INTO ledger.checkpoints VALUES (new_size, new_note);
    PERFORM pg_notify('ledger', new_size::text);
    RETURN true;
END $$;

-- The version that a stream had at a position, null before its first event. Versions have no gaps and rise with positions, so halving
-- finds it, however many came after.
CREATE OR REPLACE FUNCTION ledger.version_at(of_tenant text, of_stream text, up_to bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE low bigint := 0; high bigint; middle bigint; found bigint;
BEGIN
    SELECT version, position INTO high, found FROM ledger.events
        WHERE tenant = of_tenant AND stream = of_stream ORDER BY version DESC LIMIT 1;
    IF found <= up_to THEN
        RETURN high;
    END IF;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT position INTO found FROM ledger.events WHERE tenant = of_tenant AND stream = of_stream AND version = middle;
        IF found <= up_to THEN low := middle; ELSE high := middle - 1; END IF;
    END LOOP;
    RETURN nullif(low, 0);
END $$;

-- The last position recorded at or before a moment. Times never fall as positions rise, so halving finds it. It sees all events, whoever
-- asks, and tells of none: a position.
CREATE OR REPLACE FUNCTION ledger.position_at(moment timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE low bigint := 0; high bigint; middle bigint;
BEGIN
    SELECT size INTO high FROM ledger.head;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT at FROM ledger.events WHERE position = middle) <= moment THEN
            low := middle;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;

GRANT USAGE ON SCHEMA ledger TO aureus_app;
GRANT SELECT, INSERT ON ledger.events, ledger.checkpoints, ledger.requests TO aureus_app;
GRANT SELECT, INSERT, UPDATE ON ledger.head TO aureus_app;
