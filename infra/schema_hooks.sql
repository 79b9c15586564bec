-- Hooks beside the ledger: their sealed secrets, and what was reported to them until it became a command. What came of a report is
-- kept; its body only as long as somebody may have it tried again.
CREATE SCHEMA IF NOT EXISTS hooks_private;
CREATE TABLE IF NOT EXISTS hooks_private.secrets (
    tenant  text  NOT NULL,
    hook_id text  NOT NULL,
    sealed  bytea NOT NULL,
    kek     text  NOT NULL,
    PRIMARY KEY (tenant, hook_id)
);
CREATE TABLE IF NOT EXISTS hooks_private.deliveries (
    tenant      text        NOT NULL,
    hook_id     text        NOT NULL,
    delivery_id text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    body        bytea,
    state       text        NOT NULL DEFAULT 'received',
    refusals    int         NOT NULL DEFAULT 0,
    action_id   text,
    code        text,
    problem     text,
    settled_at  timestamptz,
    PRIMARY KEY (tenant, hook_id, delivery_id)
);
CREATE INDEX IF NOT EXISTS deliveries_latest ON hooks_private.deliveries (tenant, hook_id, received_at);
CREATE INDEX IF NOT EXISTS deliveries_with_body ON hooks_private.deliveries (received_at) WHERE body IS NOT NULL;
GRANT USAGE ON SCHEMA hooks_private TO aureus_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON hooks_private.secrets TO aureus_app;
GRANT SELECT, INSERT, UPDATE ON hooks_private.deliveries TO aureus_app;
