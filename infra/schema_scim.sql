-- What an identity provider says by SCIM of the people and groups it manages. Of people it is sealed under a key of their own, in
-- the vault, and looked up by keyed digests: with the key it is gone, from every backup too.
CREATE SCHEMA IF NOT EXISTS scim_private;
CREATE TABLE IF NOT EXISTS scim_private.users (
    tenant      text        NOT NULL,
    actor_id    text        NOT NULL,
    user_name   bytea       NOT NULL,
    external_id bytea,
    sealed      bytea       NOT NULL,
    registered  boolean     NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, actor_id),
    UNIQUE (tenant, user_name)
);
CREATE INDEX IF NOT EXISTS users_by_external_id ON scim_private.users (tenant, external_id);
CREATE TABLE IF NOT EXISTS scim_private.groups (
    tenant      text NOT NULL,
    group_id    text NOT NULL,
    external_id text,
    PRIMARY KEY (tenant, group_id)
);
GRANT USAGE ON SCHEMA scim_private TO aureus_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON scim_private.users, scim_private.groups TO aureus_app;
