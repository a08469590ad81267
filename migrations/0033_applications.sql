-- Applications: back ends of others that an organisation lets use its server, by signed requests. Which of their requests were used stands in
-- used_tokens, as 'app:', the key, a colon and the nonce.
CREATE TABLE applications (
    app_key TEXT NOT NULL PRIMARY KEY, -- by which it says who it is; given by the server
    name TEXT NOT NULL,               -- what people see
    scopes TEXT NOT NULL,             -- what it may do, a JSON array of words
    addresses TEXT NOT NULL,          -- from which networks, a JSON array such as ["192.0.2.0/24"]; []: from anywhere
    per_second BIGINT NOT NULL,       -- how many requests a second
    burst BIGINT NOT NULL,            -- how many requests at once after a rest
    expires_at BIGINT,                -- from then on it may do nothing, milliseconds since 1970; NULL: never
    disabled_at BIGINT,               -- since when it may do nothing, milliseconds since 1970; NULL: it is on
    version BIGINT NOT NULL,          -- the entry of the audit log that says what became of it last
    created_by TEXT NOT NULL,         -- who made it
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    changed_at BIGINT NOT NULL        -- milliseconds since 1970
);

CREATE TABLE application_secrets (
    id TEXT NOT NULL PRIMARY KEY,     -- given by the server
    app_key TEXT NOT NULL,            -- applications.app_key
    secret TEXT NOT NULL,             -- what requests are signed with, sealed by a key that is not in the database
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    expires_at BIGINT                 -- from then on it is no good, milliseconds since 1970; NULL: it is the one to use
);
CREATE INDEX application_secrets_by_application ON application_secrets (app_key);

-- A session that an application has opened for a user is a device that bears its key.
ALTER TABLE devices ADD COLUMN app_key TEXT;             -- applications.app_key; NULL: the user has opened it
ALTER TABLE devices ADD COLUMN ends_at BIGINT;           -- when its session ends in any case, milliseconds since 1970; NULL: never
CREATE INDEX devices_by_application ON devices (app_key, user_id);
