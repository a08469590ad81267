-- The keys that other servers sign with.

CREATE TABLE server_keys (
    server TEXT NOT NULL,             -- whose
    key_id TEXT NOT NULL,             -- ed25519:version
    public_key TEXT NOT NULL,         -- base64
    valid_until BIGINT NOT NULL,      -- what it signs counts until then, as of when it was fetched; milliseconds since 1970
    expired_at BIGINT,                -- when its server stopped using it; NULL: in use, as far as is known
    fetched_at BIGINT NOT NULL,       -- when its server, or a notary, was last heard of it
    PRIMARY KEY (server, key_id)
);

CREATE TABLE server_key_answers (
    server TEXT NOT NULL PRIMARY KEY, -- who said it
    json TEXT NOT NULL,               -- what it said of its keys, with its signatures, for those who ask us for it
    valid_until BIGINT NOT NULL,      -- valid_until_ts in it
    fetched_at BIGINT NOT NULL        -- when
);
