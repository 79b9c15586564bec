-- Replays for auditors: where each lies, the sealed password of its role, and how far its build is.
CREATE SCHEMA IF NOT EXISTS replays_private;
CREATE TABLE IF NOT EXISTS replays_private.places (
    tenant        text   NOT NULL,
    replay_id     text   NOT NULL,
    requested     bigint NOT NULL,
    schema_prefix text   NOT NULL,
    role          text   NOT NULL UNIQUE,
    sealed        bytea  NOT NULL,
    kek           text   NOT NULL,
    phase         text   NOT NULL DEFAULT 'folding',
    done          bigint NOT NULL DEFAULT 0,
    total         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, replay_id)
);
