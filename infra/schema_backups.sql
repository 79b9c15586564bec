-- What this database was put back from, if it was. Nothing is served from it before `finished_at`; `recorded` once the ledger says so.
CREATE SCHEMA IF NOT EXISTS backups;
CREATE TABLE IF NOT EXISTS backups.restored (
    one         boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    backup_id   text        NOT NULL,
    sha256      text        NOT NULL,
    size        bigint      NOT NULL,
    root        text        NOT NULL,
    erasures    int         NOT NULL DEFAULT 0,
    began_at    timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    recorded    boolean     NOT NULL DEFAULT false
);
GRANT USAGE ON SCHEMA backups TO aureus_app;
GRANT SELECT, UPDATE (recorded) ON backups.restored TO aureus_app;
