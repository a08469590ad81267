-- The OAuth 2.0 API: which clients there are, what people have allowed them, and who is at a browser; and sign-in by other providers.
-- Of everything that opens something only hashes are kept.

CREATE TABLE oauth_clients (
    client_id TEXT NOT NULL PRIMARY KEY, -- follows from the metadata, so that a client that registers again is the same
    metadata TEXT NOT NULL,          -- JSON, as it was checked and answered
    created_at BIGINT NOT NULL,      -- milliseconds since 1970
    used_at BIGINT NOT NULL          -- when it was registered again, or somebody allowed it something, likewise
);
CREATE INDEX oauth_clients_by_use ON oauth_clients (used_at);

CREATE TABLE oauth_codes (
    hash TEXT NOT NULL PRIMARY KEY,  -- of the authorization code
    client_id TEXT NOT NULL,         -- whom it was given
    user_id TEXT NOT NULL,           -- who has allowed it
    device_id TEXT NOT NULL,         -- the device that the session will have
    redirect_uri TEXT NOT NULL,      -- where it was sent
    scope TEXT NOT NULL,             -- what was allowed, words with spaces between
    challenge TEXT NOT NULL,         -- of PKCE, S256
    expires_at BIGINT NOT NULL,      -- until when it is good, milliseconds since 1970; the row stays longer, to know it again
    claim TEXT,                      -- the attempt that has used it; NULL: none has
    replayed_at BIGINT               -- when it came once more after that; NULL: it didn't
);
CREATE INDEX oauth_codes_by_expiry ON oauth_codes (expires_at);

CREATE TABLE oauth_sessions (
    user_id TEXT NOT NULL,           -- whose it is
    device_id TEXT NOT NULL,         -- the device whose session was opened by the OAuth 2.0 API
    client_id TEXT NOT NULL,         -- by which client
    scope TEXT NOT NULL,             -- what it may do, words with spaces between
    opened_at BIGINT NOT NULL,       -- milliseconds since 1970
    PRIMARY KEY (user_id, device_id)
);
CREATE INDEX oauth_sessions_by_client ON oauth_sessions (client_id);

CREATE TABLE oauth_device_codes (
    hash TEXT NOT NULL PRIMARY KEY,  -- of the device code
    user_code_hash TEXT NOT NULL,    -- of what somebody types
    client_id TEXT NOT NULL,         -- who asks
    device_id TEXT NOT NULL,         -- the device that the session will have
    scope TEXT NOT NULL,             -- what is asked for, words with spaces between
    expires_at BIGINT NOT NULL,      -- milliseconds since 1970
    polled_at BIGINT NOT NULL,       -- when the client last asked what became of it, likewise; 0: never
    user_id TEXT,                    -- who has decided; NULL: nobody yet
    allowed BIGINT,                  -- 1: it was allowed, 0: it was refused; NULL: nobody has decided
    claim TEXT                       -- the attempt that has used it; NULL: none has
);
CREATE UNIQUE INDEX oauth_device_codes_by_user_code ON oauth_device_codes (user_code_hash);
CREATE INDEX oauth_device_codes_by_expiry ON oauth_device_codes (expires_at);

CREATE TABLE browser_sessions (
    hash TEXT NOT NULL PRIMARY KEY,  -- of the cookie
    user_id TEXT NOT NULL,           -- who has signed in on this server's pages
    created_at BIGINT NOT NULL,      -- milliseconds since 1970
    expires_at BIGINT NOT NULL       -- likewise
);
CREATE INDEX browser_sessions_by_user ON browser_sessions (user_id, created_at);
CREATE INDEX browser_sessions_by_expiry ON browser_sessions (expires_at);

CREATE TABLE signing_key_resets (
    user_id TEXT NOT NULL PRIMARY KEY, -- who has allowed their clients to replace the cross-signing keys
    until BIGINT NOT NULL            -- until when, milliseconds since 1970
);

CREATE TABLE sso_logins (
    hash TEXT NOT NULL PRIMARY KEY,  -- of the state that comes back with the browser
    provider TEXT NOT NULL,          -- the id of the provider in the configuration
    nonce TEXT NOT NULL,             -- what its ID token must repeat
    verifier TEXT NOT NULL,          -- of PKCE towards the provider; sealed
    browser_hash TEXT NOT NULL,      -- of the cookie of the browser that has begun it
    goal TEXT NOT NULL,              -- JSON: what the sign-in is for
    expires_at BIGINT NOT NULL,      -- milliseconds since 1970
    claim TEXT                       -- the attempt that has used it; NULL: none has
);
CREATE INDEX sso_logins_by_expiry ON sso_logins (expires_at);

CREATE TABLE sso_links (
    issuer TEXT NOT NULL,            -- the provider
    subject TEXT NOT NULL,           -- whom it knows by this name
    user_id TEXT NOT NULL,           -- the account of this server that is theirs
    linked_at BIGINT NOT NULL,       -- milliseconds since 1970
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX sso_links_by_user ON sso_links (user_id);
