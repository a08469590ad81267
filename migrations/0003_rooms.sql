-- Rooms, their events and their state.

CREATE TABLE rooms (
    nid BIGINT NOT NULL PRIMARY KEY,  -- the room's number inside this database
    room_id TEXT NOT NULL UNIQUE,     -- !opaque or !opaque:server
    room_version TEXT NOT NULL,       -- which rules the room obeys
    version BIGINT NOT NULL,          -- counts the writes to the room
    head_nid BIGINT NOT NULL,         -- events.nid of its latest event; who extends the room names the version and the event it built upon
    head TEXT NOT NULL,               -- JSON: {"extremities": [[event id, depth], …]}
    snapshot_nid BIGINT NOT NULL      -- the room's state now
);

CREATE TABLE events (
    nid BIGINT NOT NULL PRIMARY KEY,  -- the event's number inside this database
    event_id TEXT NOT NULL UNIQUE,    -- $hash
    room_nid BIGINT NOT NULL,         -- rooms.nid
    position BIGINT,                  -- when it became visible; negative: history that came later; NULL: an outlier, not in the timeline
    depth BIGINT NOT NULL,            -- the longest way to the room's first event
    type TEXT NOT NULL,               -- m.room.message …
    state_key TEXT,                   -- NULL: not a state event
    sender TEXT NOT NULL,             -- the user id that made it
    origin_server_ts BIGINT NOT NULL, -- milliseconds since 1970, as its maker says
    state_before_nid BIGINT,          -- state_snapshots.nid of the state in which it was made; NULL: not known (outliers)
    json TEXT NOT NULL,               -- the PDU as signed, redacted if it has been redacted
    transaction_id TEXT,              -- JSON [device id, transaction id], for the device that sent it
    rejected_at BIGINT,               -- when the authorisation rules refused it
    soft_failed_at BIGINT,            -- when it was allowed by its own state, but not by the room's
    redacted_by TEXT                  -- the event id of the redaction
);
CREATE UNIQUE INDEX events_by_position ON events (room_nid, position) WHERE position IS NOT NULL;

CREATE TABLE relations (
    room_nid BIGINT NOT NULL,         -- rooms.nid
    parent_id TEXT NOT NULL,          -- the event id that is related to
    event_nid BIGINT NOT NULL,        -- events.nid of the event that relates
    rel_type TEXT NOT NULL,           -- m.replace, m.annotation, m.thread, m.reference
    type TEXT NOT NULL,               -- the relating event's type
    sender TEXT NOT NULL,             -- the relating event's sender
    position BIGINT NOT NULL,         -- the relating event's position
    PRIMARY KEY (room_nid, parent_id, event_nid)
);

CREATE TABLE state_snapshots (
    nid BIGINT NOT NULL PRIMARY KEY,  -- the number of a state that the room was in
    room_nid BIGINT NOT NULL,         -- rooms.nid
    parent_nid BIGINT,                -- the snapshot that this one changes; NULL: its entries are the whole state
    chain BIGINT NOT NULL             -- how many parents lie before a whole one
);

CREATE TABLE state_entries (
    snapshot_nid BIGINT NOT NULL,     -- state_snapshots.nid
    event_nid BIGINT NOT NULL,        -- events.nid of the state event that holds for its type and state key
    PRIMARY KEY (snapshot_nid, event_nid)
);

CREATE TABLE current_state (
    room_nid BIGINT NOT NULL,         -- rooms.nid
    type TEXT NOT NULL,               -- the event type
    state_key TEXT NOT NULL,          -- the state key
    event_nid BIGINT NOT NULL,        -- events.nid
    PRIMARY KEY (room_nid, type, state_key)
);

CREATE TABLE memberships (
    room_nid BIGINT NOT NULL,         -- rooms.nid
    user_id TEXT NOT NULL,            -- the member
    membership TEXT NOT NULL,         -- join, invite, knock, leave, ban
    sender TEXT NOT NULL,             -- who made it so
    event_nid BIGINT NOT NULL,        -- events.nid of the m.room.member event
    position BIGINT NOT NULL,         -- when it became so
    display_name TEXT,                -- as the event says
    avatar_url TEXT,                  -- as the event says
    forgotten_at BIGINT,              -- when the user forgot the room, milliseconds since 1970; cleared by the next membership
    PRIMARY KEY (room_nid, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id, membership);

CREATE TABLE transactions (
    user_id TEXT NOT NULL,            -- who sent
    device_id TEXT NOT NULL,          -- from which device
    scope TEXT NOT NULL,              -- what was asked: the endpoint and its room
    transaction_id TEXT NOT NULL,     -- as the client chose it
    answer TEXT NOT NULL,             -- what was answered then: an event id, or nothing
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    PRIMARY KEY (user_id, device_id, scope, transaction_id)
);

CREATE TABLE aliases (
    alias TEXT NOT NULL PRIMARY KEY,  -- #name:server
    room_nid BIGINT NOT NULL,         -- rooms.nid
    creator TEXT NOT NULL,            -- the user id that made it
    created_at BIGINT NOT NULL        -- milliseconds since 1970
);
CREATE INDEX aliases_by_room ON aliases (room_nid);

CREATE TABLE directory (
    room_nid BIGINT NOT NULL PRIMARY KEY, -- rooms.nid of a room that the public directory lists
    listed_at BIGINT NOT NULL         -- milliseconds since 1970
);
