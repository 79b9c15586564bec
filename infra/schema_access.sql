-- What actors prove themselves by, beside the ledger: hashes that could be guessed at, sealed secrets, and counts of failures.
-- The application role sees none of it.
CREATE SCHEMA IF NOT EXISTS access_private;
CREATE TABLE IF NOT EXISTS access_private.passwords (
    tenant      text        NOT NULL,
    login       text        NOT NULL,
    actor       text        NOT NULL,
    hash        text        NOT NULL,
    must_change boolean     NOT NULL DEFAULT false,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, login)
);
ALTER TABLE access_private.passwords ADD COLUMN IF NOT EXISTS must_change boolean NOT NULL DEFAULT false;
-- `last_step` is the half minute of the last code that was taken: neither it nor an earlier one is taken again.
CREATE TABLE IF NOT EXISTS access_private.second_factors (
    tenant    text    NOT NULL,
    actor     text    NOT NULL,
    sealed    bytea   NOT NULL,
    kek       text    NOT NULL,
    confirmed boolean NOT NULL DEFAULT false,
    last_step bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, actor)
);
CREATE TABLE IF NOT EXISTS access_private.recovery_codes (
    tenant      text  NOT NULL,
    actor       text  NOT NULL,
    code_sha256 bytea NOT NULL,
    PRIMARY KEY (tenant, actor, code_sha256)
);
-- Failures by a digest of what failed: a login, an address, or a login from an address.
CREATE TABLE IF NOT EXISTS access_private.login_failures (
    tenant     text        NOT NULL,
    what       bytea       NOT NULL,
    failures   int         NOT NULL,
    last_at    timestamptz NOT NULL DEFAULT now(),
    slow_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (tenant, what)
);
CREATE INDEX IF NOT EXISTS login_failures_last_at ON access_private.login_failures (last_at);
-- Where a login has come in from before, by the same digests.
CREATE TABLE IF NOT EXISTS access_private.login_places (
    tenant  text        NOT NULL,
    what    bytea       NOT NULL,
    last_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, what)
);
CREATE TABLE IF NOT EXISTS access_private.last_used (
    tenant text        NOT NULL,
    kind   text        NOT NULL,
    id     text        NOT NULL,
    at     timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, id)
);
