-- What the native federation API remembers.

-- Tokens of other servers that were used: each is good once.
CREATE TABLE used_tokens (
    issuer TEXT NOT NULL,             -- the server that signed it
    token_id TEXT NOT NULL,           -- its jti, as that server chose it
    expires_at BIGINT NOT NULL,       -- from then on it is too old to be used, milliseconds since 1970
    PRIMARY KEY (issuer, token_id)
);
CREATE INDEX used_tokens_by_time ON used_tokens (expires_at);

-- Up to which of its news of a user's presence another server was heard.
CREATE TABLE presence_sequences (
    user_id TEXT NOT NULL PRIMARY KEY, -- whose
    sequence BIGINT NOT NULL,         -- as the other server counts
    heard_at BIGINT NOT NULL          -- milliseconds since 1970
);

-- Users who don't want to be found by people of other servers.
CREATE TABLE unlisted_users (
    user_id TEXT NOT NULL PRIMARY KEY, -- accounts.user_id
    since BIGINT NOT NULL             -- milliseconds since 1970
);

-- Rooms in which somebody of a chat system that doesn't speak Matrix talks with a user of this server.
CREATE TABLE bridge_rooms (
    room_id TEXT NOT NULL PRIMARY KEY, -- the room
    server TEXT NOT NULL,             -- where the other one is at home
    remote TEXT NOT NULL,             -- the other one, as user@domain
    user_id TEXT NOT NULL,            -- who of this server
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    sent_upto BIGINT NOT NULL,        -- up to this position what the user said was taken or refused by the other server
    closed_at BIGINT                  -- when the user left, so that a new message opens another room; NULL: it is in use
);
CREATE UNIQUE INDEX bridge_rooms_by_pair ON bridge_rooms (remote, user_id, room_id);
CREATE INDEX bridge_rooms_by_server ON bridge_rooms (server);
