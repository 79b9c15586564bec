-- The workers that move the read models, as each says of itself every few seconds. A crash may forget them: they say it again.
CREATE SCHEMA IF NOT EXISTS streams;
CREATE UNLOGGED TABLE IF NOT EXISTS streams.workers (
    id          text        NOT NULL PRIMARY KEY,
    host        text        NOT NULL,
    pid         int         NOT NULL,
    projections text[]      NOT NULL,
    partitions  int[]       NOT NULL,
    position    bigint      NOT NULL,
    last_error  text,
    seen_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
GRANT USAGE ON SCHEMA streams TO aureus_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON streams.workers TO aureus_app;
GRANT SELECT ON streams.workers TO aureus_reader;
