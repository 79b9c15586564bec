-- How far each export is on its way. It is told to whoever waits, and worth nothing afterwards: so it need not survive a crash.
CREATE SCHEMA IF NOT EXISTS packing;
CREATE UNLOGGED TABLE IF NOT EXISTS packing.progress (
    tenant    text        NOT NULL,
    export_id text        NOT NULL,
    phase     text        NOT NULL,
    done      bigint      NOT NULL,
    total     bigint      NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, export_id)
) WITH (fillfactor = 50);
GRANT USAGE ON SCHEMA packing TO aureus_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON packing.progress TO aureus_app;
