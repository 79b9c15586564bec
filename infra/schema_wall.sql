-- The wall between tenants, around what is not a read table (those get theirs as they are made). A reader sees the rows of the tenant
-- that its connection was told to read for, or none; aureus_app, which writes for all of them, is not narrowed.
DO $$
DECLARE place text;
BEGIN
    FOREACH place IN ARRAY ARRAY['ledger.events', 'packing.progress', 'replays_private.places'] LOOP
        IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = place::regclass) THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', place);
            EXECUTE format('CREATE POLICY everything ON %s TO aureus_app USING (true) WITH CHECK (true)', place);
            EXECUTE format($wall$CREATE POLICY tenants ON %s FOR SELECT TO aureus_reader
                USING (tenant = (SELECT current_setting('aureus.tenant', true)) OR (SELECT current_setting('aureus.tenant', true)) = '*')
            $wall$, place);
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA ledger, packing, replays_private, streams TO aureus_reader;
GRANT SELECT ON ledger.events, ledger.head, packing.progress, streams.positions TO aureus_reader;
GRANT SELECT (tenant, replay_id, phase, done, total) ON replays_private.places TO aureus_reader;

-- Behind a wall, PostgreSQL looks nothing up in an index by a function that might tell of a row before the wall hid it - by an error, say.
-- Of read rows these cannot: an int field holds digits, a span is above zero. Only a superuser may say so; without, filtered lists
-- read all rows of their tenant.
CREATE OR REPLACE FUNCTION ledger.lookups() RETURNS regprocedure[] LANGUAGE sql STABLE RETURN ARRAY[
    'pg_catalog.jsonb_object_field(jsonb, text)', 'pg_catalog.jsonb_object_field_text(jsonb, text)',
    'pg_catalog.jsonb_exists_any(jsonb, text[])', 'pg_catalog.int8in(cstring)', 'pg_catalog.textout(text)',
    'pg_catalog.int8mi(bigint, bigint)', 'pg_catalog.float8(bigint)', 'pg_catalog.ln(double precision)',
    'pg_catalog.float8div(double precision, double precision)', 'pg_catalog.floor(double precision)', 'pg_catalog.int4(double precision)'
]::regprocedure[];

DO $$
DECLARE lookup regprocedure;
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        FOREACH lookup IN ARRAY ledger.lookups() LOOP
            EXECUTE format('ALTER FUNCTION %s LEAKPROOF', lookup);
        END LOOP;
    END IF;
END $$;
