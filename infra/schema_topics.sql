-- What every event of a tenant is about, counted and chained by topic. Nothing here is signed: the root over it is, by the event
-- exports.index_committed, and all of it can be made again from the ledger.
CREATE SCHEMA IF NOT EXISTS topics;
CREATE TABLE IF NOT EXISTS topics.chains (
    tenant text   NOT NULL,
    topic  text   NOT NULL COLLATE "C",
    count  bigint NOT NULL CHECK (count > 0),
    chain  bytea  NOT NULL CHECK (octet_length(chain) = 32),
    PRIMARY KEY (tenant, topic)
) WITH (fillfactor = 70);

-- What later events take from earlier ones: what an approval was asked for, which law a dataset stands under.
CREATE TABLE IF NOT EXISTS topics.memory (
    tenant text   NOT NULL,
    stream text   NOT NULL,
    texts  text[] NOT NULL,
    PRIMARY KEY (tenant, stream)
);

-- How far both were brought, and by which version of the rules.
CREATE TABLE IF NOT EXISTS topics.marks (
    tenant text   NOT NULL PRIMARY KEY,
    size   bigint NOT NULL CHECK (size >= 0),
    rules  int    NOT NULL
);
GRANT USAGE ON SCHEMA topics TO aureus_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON topics.chains, topics.memory, topics.marks TO aureus_app;
