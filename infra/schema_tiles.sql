-- The full tiles of the log's tree: hashes of what the events hold already, kept so that a proof costs the same at any size.
-- Nothing is signed here; `aureus log fsck --repair` builds them again from the leaves.
CREATE TABLE IF NOT EXISTS ledger.tiles (
    level  smallint NOT NULL CHECK (level >= 0),
    index  bigint   NOT NULL CHECK (index >= 0),
    hashes bytea    NOT NULL CHECK (octet_length(hashes) = 8192),
    root   bytea    NOT NULL CHECK (octet_length(root) = 32),
    PRIMARY KEY (level, index)
);
-- Hashes do not compress, and the roots are read by the hundred without them.
ALTER TABLE ledger.tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;
GRANT SELECT, INSERT ON ledger.tiles TO aureus_app;
