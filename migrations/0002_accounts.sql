-- Accounts, their devices and tokens, their profiles, and the keys of their devices.

CREATE TABLE accounts (
    user_id TEXT NOT NULL PRIMARY KEY, -- @localpart:server of a user of this server
    password_hash TEXT,               -- argon2id or bcrypt, as PHC or modular crypt text; NULL: no password opens the account
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    admin_since BIGINT,               -- since when the user administrates this server
    deactivated_at BIGINT,            -- when the account was closed, for good
    erased_at BIGINT                  -- when its owner asked that what it said be forgotten
);

CREATE TABLE devices (
    user_id TEXT NOT NULL,            -- accounts.user_id
    device_id TEXT NOT NULL,          -- chosen by the client or by us
    display_name TEXT,                -- as the owner called it
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    last_seen_at BIGINT,              -- milliseconds since 1970, a minute coarse
    last_seen_ip TEXT,                -- the address it was last seen at
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE access_tokens (
    hash TEXT NOT NULL PRIMARY KEY,   -- base64 of the token's SHA-256
    user_id TEXT NOT NULL,            -- devices.user_id
    device_id TEXT NOT NULL,          -- devices.device_id
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    expires_at BIGINT,                -- NULL: lasts until logout
    refresh_hash TEXT                 -- refresh_tokens.hash of the refresh token that was issued with it; NULL: none
);
CREATE INDEX access_tokens_by_device ON access_tokens (user_id, device_id);
CREATE INDEX access_tokens_by_refresh ON access_tokens (refresh_hash);

CREATE TABLE refresh_tokens (
    hash TEXT NOT NULL PRIMARY KEY,   -- base64 of the token's SHA-256
    user_id TEXT NOT NULL,            -- devices.user_id
    device_id TEXT NOT NULL,          -- devices.device_id
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    next_hash TEXT                    -- the one that replaces it as soon as what was issued last is used; NULL: not refreshed yet
);
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (user_id, device_id);
CREATE INDEX refresh_tokens_by_next ON refresh_tokens (next_hash);

CREATE TABLE login_tokens (
    hash TEXT NOT NULL PRIMARY KEY,   -- base64 of the token's SHA-256
    user_id TEXT NOT NULL,            -- accounts.user_id
    expires_at BIGINT NOT NULL,       -- milliseconds since 1970
    claim TEXT                        -- the attempt that used it; NULL: unused
);

CREATE TABLE uia_stages (
    session TEXT NOT NULL,            -- the session of a user-interactive authentication that has more stages
    stage TEXT NOT NULL,              -- m.login.dummy …
    completed_at BIGINT NOT NULL,     -- milliseconds since 1970
    PRIMARY KEY (session, stage)
);

CREATE TABLE secrets (
    name TEXT NOT NULL PRIMARY KEY,   -- what it is for
    value TEXT NOT NULL               -- base64; shared by all nodes, made by the first one
);

CREATE TABLE profiles (
    user_id TEXT NOT NULL,            -- accounts.user_id
    field TEXT NOT NULL,              -- displayname, avatar_url, m.tz …
    value TEXT NOT NULL,              -- JSON
    PRIMARY KEY (user_id, field)
);

CREATE TABLE device_keys (
    user_id TEXT NOT NULL,            -- devices.user_id
    device_id TEXT NOT NULL,          -- devices.device_id
    json TEXT NOT NULL,               -- the identity keys as the device signed them
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE one_time_keys (
    user_id TEXT NOT NULL,            -- devices.user_id
    device_id TEXT NOT NULL,          -- devices.device_id
    algorithm TEXT NOT NULL,          -- signed_curve25519 …
    key_id TEXT NOT NULL,             -- the part after the colon
    json TEXT NOT NULL,               -- the key as the device signed it
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    claim TEXT,                       -- the request that it was given to; NULL: not given out
    claimed_at BIGINT,                -- when it was given out, milliseconds since 1970
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);
CREATE INDEX one_time_keys_by_claim ON one_time_keys (claim) WHERE claim IS NOT NULL;

CREATE TABLE fallback_keys (
    user_id TEXT NOT NULL,            -- devices.user_id
    device_id TEXT NOT NULL,          -- devices.device_id
    algorithm TEXT NOT NULL,          -- signed_curve25519 …
    key_id TEXT NOT NULL,             -- the part after the colon
    json TEXT NOT NULL,               -- the key as the device signed it
    used_at BIGINT,                   -- when it was first given out; NULL: never
    PRIMARY KEY (user_id, device_id, algorithm)
);

CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,            -- whose
    usage TEXT NOT NULL,              -- master, self_signing, user_signing
    public_key TEXT NOT NULL,         -- ed25519, base64
    json TEXT NOT NULL,               -- the key as it was uploaded
    PRIMARY KEY (user_id, usage)
);

CREATE TABLE key_signatures (
    user_id TEXT NOT NULL,            -- whose key is signed
    target TEXT NOT NULL,             -- the device id, or the public key of the cross-signing key, that is signed
    signer TEXT NOT NULL,             -- the user id that signed
    signing_key TEXT NOT NULL,        -- ed25519:…, which key of the signer's
    signature TEXT NOT NULL,          -- base64
    PRIMARY KEY (user_id, target, signer, signing_key)
);

CREATE TABLE device_list_changes (
    position BIGINT NOT NULL,         -- when
    user_id TEXT NOT NULL,            -- whose devices or keys changed
    PRIMARY KEY (position, user_id)
);
CREATE INDEX device_list_changes_by_user ON device_list_changes (user_id, position);

CREATE TABLE key_backups (
    user_id TEXT NOT NULL,            -- whose
    version BIGINT NOT NULL,          -- counts a user's backups from 1
    algorithm TEXT NOT NULL,          -- m.megolm_backup.v1.curve25519-aes-sha2
    auth_data TEXT NOT NULL,          -- JSON, as the client made it
    etag BIGINT NOT NULL,             -- counts the changes to its keys
    deleted_at BIGINT,                -- when it was deleted; its number is not used again
    PRIMARY KEY (user_id, version)
);

CREATE TABLE key_backup_sessions (
    user_id TEXT NOT NULL,            -- key_backups.user_id
    version BIGINT NOT NULL,          -- key_backups.version
    room_id TEXT NOT NULL,            -- the room whose messages it opens
    session_id TEXT NOT NULL,         -- the megolm session
    first_message_index BIGINT NOT NULL, -- the first message it opens
    forwarded_count BIGINT NOT NULL,  -- how many hands it went through
    verified BIGINT NOT NULL,         -- 1: the device that made it was verified
    session_data TEXT NOT NULL,       -- JSON, encrypted by the client
    PRIMARY KEY (user_id, version, room_id, session_id)
);
