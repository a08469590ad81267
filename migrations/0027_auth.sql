-- What logging in through the native API needs: which session a refresh token is of, accounts that wait for an admin's approval, e-mail
-- addresses, codes that are sent to them, and second factors.

-- A session's refresh tokens are one family: its name stands in each of them, so that one that was replaced long ago is still known as
-- one of this session.
ALTER TABLE refresh_tokens ADD COLUMN family TEXT;       -- base64 of the SHA-256 of the family's name; NULL: given out before there were families
ALTER TABLE refresh_tokens ADD COLUMN generation BIGINT; -- the how-manieth of its family, from 1 on; NULL as above
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family);

ALTER TABLE devices ADD COLUMN opened_at BIGINT;         -- when somebody logged in on it last, milliseconds since 1970; NULL: see created_at

CREATE TABLE pending_accounts (
    user_id TEXT NOT NULL PRIMARY KEY, -- @localpart:server that was asked for; no account has it yet
    password_hash TEXT NOT NULL,      -- argon2id, as PHC text
    display_name TEXT NOT NULL,       -- what the user wants to be called
    email TEXT,                       -- an address that was proved to be the user's; NULL: none
    requested_at BIGINT NOT NULL,     -- milliseconds since 1970
    refused_at BIGINT,                -- when an admin refused it; NULL: it waits
    reason TEXT                       -- why it was refused, for the user
);
CREATE INDEX pending_accounts_by_age ON pending_accounts (requested_at, user_id);

CREATE TABLE emails (
    email TEXT NOT NULL PRIMARY KEY,  -- in small letters; one account has it
    user_id TEXT NOT NULL,            -- accounts.user_id
    verified_at BIGINT NOT NULL       -- when it was proved to be the user's, milliseconds since 1970
);
CREATE INDEX emails_by_user ON emails (user_id);

CREATE TABLE verification_codes (
    email TEXT NOT NULL,              -- to whom it was sent, in small letters
    purpose TEXT NOT NULL,            -- register, reset
    code_hash TEXT NOT NULL,          -- base64 of an HMAC-SHA256 of the code, by a key that is not in the database
    sent_at BIGINT NOT NULL,          -- milliseconds since 1970
    expires_at BIGINT NOT NULL,       -- milliseconds since 1970
    attempts BIGINT NOT NULL,         -- how often one was tried
    claim TEXT,                       -- the attempt that used it; NULL: unused
    PRIMARY KEY (email, purpose)
);
CREATE INDEX verification_codes_by_end ON verification_codes (expires_at);

CREATE TABLE second_factors (
    user_id TEXT NOT NULL PRIMARY KEY, -- accounts.user_id
    secret TEXT NOT NULL,             -- what the codes are computed from, sealed by a key that is not in the database
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    confirmed_at BIGINT,              -- since when logging in needs it; NULL: not yet
    last_step BIGINT NOT NULL,        -- the half minute, since 1970, of the last code that was used: none is good twice
    claim TEXT                        -- the attempt that used it; NULL: none did
);

CREATE TABLE recovery_codes (
    hash TEXT NOT NULL PRIMARY KEY,   -- base64 of the SHA-256 of the user id and the code
    user_id TEXT NOT NULL,            -- second_factors.user_id
    claim TEXT                        -- the attempt that used it; NULL: unused
);
CREATE INDEX recovery_codes_by_user ON recovery_codes (user_id);
