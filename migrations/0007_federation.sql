-- What other servers are owed besides events, how they are, and what they have sent.

-- Messages from devices of this server to devices of others.
CREATE TABLE outbox_to_device (
    destination TEXT NOT NULL,        -- the server that has not acknowledged it yet
    position BIGINT NOT NULL,         -- when it was sent
    content TEXT NOT NULL,            -- JSON, the content of one m.direct_to_device
    PRIMARY KEY (destination, position)
);

-- Whose keys changed. What is sent is what holds then, so that of many changes one row is left.
CREATE TABLE outbox_keys (
    destination TEXT NOT NULL,        -- the server that has not acknowledged it yet
    user_id TEXT NOT NULL,            -- whose
    device_id TEXT NOT NULL,          -- of which device; '': the cross-signing keys
    position BIGINT NOT NULL,         -- when it last changed
    PRIMARY KEY (destination, user_id, device_id)
);
CREATE INDEX outbox_keys_by_position ON outbox_keys (destination, position);

-- Transactions of which nobody knows whether they arrived: they are repeated as they were.
CREATE TABLE outbox_transactions (
    destination TEXT NOT NULL PRIMARY KEY, -- where it goes
    content TEXT NOT NULL             -- JSON: its id, what it holds, and which rows it covers
);

-- Servers that could not be reached, or that are catching up.
CREATE TABLE destinations (
    destination TEXT NOT NULL PRIMARY KEY, -- the server
    retry_at BIGINT NOT NULL,         -- before that it is left alone, milliseconds since 1970
    failures BIGINT NOT NULL,         -- how often in a row it could not be reached
    failing_since BIGINT,             -- since when, milliseconds since 1970; NULL: it can be reached
    last_failure TEXT,                -- why: dns, connect, tls …
    catch_up_upto BIGINT              -- up to this position each room is owed its latest event only; NULL: each event
);

-- What transactions of other servers were answered, so that each takes effect once.
CREATE TABLE inbound_transactions (
    origin TEXT NOT NULL,             -- who sent it
    transaction_id TEXT NOT NULL,     -- as the sender chose it
    answer TEXT NOT NULL,             -- JSON: for each event id nothing, or why it was refused
    received_at BIGINT NOT NULL,      -- milliseconds since 1970
    PRIMARY KEY (origin, transaction_id)
);
CREATE INDEX inbound_transactions_by_time ON inbound_transactions (received_at);

-- Which messages to devices have come from other servers, so that none is told twice.
CREATE TABLE inbound_messages (
    sender TEXT NOT NULL,             -- the user id that sent it
    message_id TEXT NOT NULL,         -- as the sender's server chose it
    received_at BIGINT NOT NULL,      -- milliseconds since 1970
    PRIMARY KEY (sender, message_id)
);
CREATE INDEX inbound_messages_by_time ON inbound_messages (received_at);

-- The devices and keys of users of other servers, as far as they are known: each list is kept while its user shares a room with
-- somebody of this server, for that long changes are told.
CREATE TABLE remote_device_lists (
    user_id TEXT NOT NULL PRIMARY KEY, -- whose
    changed_at BIGINT NOT NULL,       -- when this row last changed: what was made of an older one doesn't replace it
    stale_since BIGINT,               -- since when changes may be missing; NULL: none are
    stream_id BIGINT,                 -- up to which change the list is whole, as its server counts; NULL: it wasn't fetched yet
    devices TEXT NOT NULL,            -- JSON: for each device id its identity keys, and what its owner calls it
    master_key TEXT,                  -- JSON, by which the user signs other keys
    self_signing_key TEXT             -- JSON, by which the user signs devices
);

-- Which device of a user of this server changed: each such change is told to other servers, and names the one before it.
-- NULL: something else about the user's keys.
ALTER TABLE device_list_changes ADD COLUMN device_id TEXT;

-- Events of other servers that are acknowledged, but whose rooms have been too slow to take them yet.
CREATE TABLE inbound_pdus (
    room_id TEXT NOT NULL,            -- the room they are for
    position BIGINT NOT NULL,         -- when they came
    origin TEXT NOT NULL,             -- who sent them
    json TEXT NOT NULL,               -- the PDU
    PRIMARY KEY (room_id, position)
);
