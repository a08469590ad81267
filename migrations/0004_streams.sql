-- What people hear of besides events.

CREATE TABLE account_data (
    user_id TEXT NOT NULL,            -- whose
    room_id TEXT NOT NULL,            -- of which room; '': global
    type TEXT NOT NULL,               -- m.direct, m.tag, m.push_rules, m.ignored_user_list …
    content TEXT NOT NULL,            -- JSON
    position BIGINT NOT NULL,         -- when it was set
    PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_by_position ON account_data (user_id, position);

CREATE TABLE receipts (
    room_nid BIGINT NOT NULL,         -- rooms.nid
    user_id TEXT NOT NULL,            -- who has read
    type TEXT NOT NULL,               -- m.read, or m.read.private, of which only the user hears
    thread TEXT NOT NULL,             -- the event id of the thread's root, or main; '': all threads together
    event_id TEXT NOT NULL,           -- up to which event
    event_position BIGINT NOT NULL,   -- events.position of that event
    at BIGINT NOT NULL,               -- when it was read, milliseconds since 1970
    position BIGINT NOT NULL,         -- when the receipt came
    PRIMARY KEY (room_nid, user_id, type, thread)
);
CREATE INDEX receipts_by_position ON receipts (room_nid, position);

CREATE TABLE to_device (
    user_id TEXT NOT NULL,            -- to whom
    device_id TEXT NOT NULL,          -- to which device
    position BIGINT NOT NULL,         -- when it was sent
    sender TEXT NOT NULL,             -- who sent it
    type TEXT NOT NULL,               -- m.room.encrypted, m.room_key_request …
    content TEXT NOT NULL,            -- JSON
    PRIMARY KEY (user_id, device_id, position)
);

CREATE TABLE presence (
    user_id TEXT NOT NULL PRIMARY KEY, -- whose
    presence TEXT NOT NULL,           -- online, unavailable, offline
    status_msg TEXT,                  -- what the user says of it
    last_active_at BIGINT NOT NULL,   -- milliseconds since 1970
    position BIGINT NOT NULL          -- when it changed
);

CREATE TABLE filters (
    user_id TEXT NOT NULL,            -- whose
    filter_id BIGINT NOT NULL,        -- what the client calls it by: the position at which it was stored
    definition TEXT NOT NULL,         -- JSON
    PRIMARY KEY (user_id, filter_id)
);

-- How far somebody's unread events have been counted, so that counting goes on from there after a restart. Written now
-- and then by whoever syncs, never by whoever sends; losing a row costs only counting again.
CREATE TABLE unread_checkpoints (
    user_id TEXT NOT NULL,            -- who has not read
    room_nid BIGINT NOT NULL,         -- rooms.nid
    read_upto TEXT NOT NULL,          -- JSON: the receipts that the counts stand on; others make the row worthless
    counted_upto BIGINT NOT NULL,     -- events.position of the last event that was looked at
    counts TEXT NOT NULL,             -- JSON: {"": [notifications, highlights], "$root": […]}
    PRIMARY KEY (user_id, room_nid)
);
