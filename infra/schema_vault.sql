-- The vault: personal fields, sealed under a key per subject and purpose, erasable without touching a signed byte.
CREATE SCHEMA IF NOT EXISTS vault;
CREATE TABLE IF NOT EXISTS vault.disclosures (
    position bigint NOT NULL,
    name     text   NOT NULL,
    tenant   text   NOT NULL,
    subject  text   NOT NULL,
    purpose  text   NOT NULL,
    sealed   bytea  NOT NULL,
    PRIMARY KEY (position, name)
);
CREATE INDEX IF NOT EXISTS disclosures_of ON vault.disclosures (tenant, subject, purpose);

-- What was erased, by whose order, up to where: a purpose of '*' blocks every other as well. Who is reopened is blocked no more,
-- and stays on record. `destroyed` is false as long as keys may be left.
CREATE TABLE IF NOT EXISTS vault.erased (
    tenant           text        NOT NULL,
    subject          text        NOT NULL,
    purpose          text        NOT NULL,
    ordered_position bigint      NOT NULL,
    until            bigint      NOT NULL DEFAULT 0,
    fields           bigint      NOT NULL DEFAULT 0,
    keys             int         NOT NULL DEFAULT 0,
    at               timestamptz NOT NULL DEFAULT now(),
    destroyed        boolean     NOT NULL DEFAULT false,
    reopened         boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (tenant, subject, purpose, ordered_position)
);

-- One row: behind this position every digest of a personal event has its row above, decoys included, or a certificate of erasure.
CREATE TABLE IF NOT EXISTS vault.accounted (
    one      boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (one),
    position bigint  NOT NULL
);
INSERT INTO vault.accounted (position) SELECT coalesce((SELECT size FROM ledger.head), 0) ON CONFLICT DO NOTHING;

GRANT USAGE ON SCHEMA vault TO aureus_app;
GRANT SELECT, INSERT, DELETE ON vault.disclosures TO aureus_app;
GRANT SELECT, INSERT, UPDATE ON vault.erased TO aureus_app;
GRANT SELECT ON vault.accounted TO aureus_app;
