-- What happened to the server and to the systems around it, and what people are told by those who run them.

CREATE TABLE system_events (
    id TEXT NOT NULL PRIMARY KEY,     -- as whoever reported it calls it, or made up here
    position BIGINT NOT NULL,         -- when it became visible
    type TEXT NOT NULL,               -- server.started …
    subject TEXT NOT NULL,            -- what it is about, such as a server's name
    severity BIGINT NOT NULL,         -- 0 info, 1 notice, 2 warning, 3 error, 4 critical
    data TEXT NOT NULL,               -- a JSON object: what else there is to say
    at BIGINT NOT NULL,               -- when it happened, as its reporter says, milliseconds since 1970
    recorded_at BIGINT NOT NULL,      -- when it was written down, milliseconds since 1970
    author TEXT NOT NULL              -- who reported it: a user id, server, or a program at the bus
);
CREATE UNIQUE INDEX system_events_by_position ON system_events (position);
CREATE INDEX system_events_by_type ON system_events (type, position);
CREATE INDEX system_events_by_time ON system_events (recorded_at);

-- One row for each broadcast, however many people it is for.
CREATE TABLE broadcasts (
    id TEXT NOT NULL PRIMARY KEY,     -- as its author calls it, or made up here; with @server at its end where it came from another server
    origin TEXT NOT NULL,             -- the server that it comes from
    author TEXT NOT NULL,             -- who wrote it: a user id, server, or a program at the bus
    title TEXT NOT NULL,              -- one line
    body TEXT NOT NULL,               -- plain text
    html TEXT,                        -- the body with formatting; NULL: there is none
    priority TEXT NOT NULL,           -- low, normal, high, urgent
    audience TEXT NOT NULL,           -- whom it is for, JSON
    across BIGINT NOT NULL,           -- 1: people of other servers are told too
    created BIGINT NOT NULL,          -- the position at which it was written
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    publish_at BIGINT NOT NULL,       -- when it is to be published, milliseconds since 1970
    expires_at BIGINT,                -- from then on nobody is told any more; NULL: never
    position BIGINT,                  -- the position at which it was published; NULL: it was not
    published_at BIGINT,              -- when it was published, milliseconds since 1970
    changed BIGINT,                   -- the position at which it was published or cancelled, whichever came last
    cancelled_at BIGINT,              -- when it was called back
    cancelled_by TEXT                 -- by whom
);
CREATE UNIQUE INDEX broadcasts_by_creation ON broadcasts (created);
CREATE INDEX broadcasts_by_position ON broadcasts (position) WHERE position IS NOT NULL;
CREATE INDEX broadcasts_by_change ON broadcasts (changed) WHERE changed IS NOT NULL;
CREATE INDEX broadcasts_due ON broadcasts (publish_at) WHERE position IS NULL AND cancelled_at IS NULL;
CREATE INDEX broadcasts_by_origin ON broadcasts (origin, created_at);

-- Who has read a broadcast on the native API: a row for each reader, none for those who haven't.
CREATE TABLE broadcast_reads (
    broadcast_id TEXT NOT NULL,       -- broadcasts.id
    user_id TEXT NOT NULL,            -- who
    read_at BIGINT NOT NULL,          -- milliseconds since 1970
    PRIMARY KEY (broadcast_id, user_id)
);

-- How far users have been told by server notices. Who wasn't there since the first broadcast has no row.
CREATE TABLE notice_markers (
    user_id TEXT NOT NULL PRIMARY KEY, -- accounts.user_id
    room_id TEXT,                     -- the user's notices room; NULL: there is none yet
    claim TEXT,                       -- who makes the room
    claimed_at BIGINT,                -- since when, milliseconds since 1970
    noticed_upto BIGINT NOT NULL,     -- up to this position what became of broadcasts was told
    read_upto BIGINT NOT NULL         -- broadcasts published up to this position were read, as receipts in the room say
);
CREATE INDEX notice_markers_by_room ON notice_markers (room_id);

-- Which servers are told of a broadcast of this one's.
CREATE TABLE broadcast_deliveries (
    broadcast_id TEXT NOT NULL,       -- broadcasts.id
    server TEXT NOT NULL,             -- who is told
    wish TEXT NOT NULL,               -- publish; cancel: that it was called back
    attempts BIGINT NOT NULL,         -- how often it was tried
    next_at BIGINT NOT NULL,          -- when it is tried next, milliseconds since 1970
    claim TEXT,                       -- which node tries it
    done_at BIGINT,                   -- when the server took it, or it was given up; NULL: it is owed
    outcome TEXT,                     -- done: taken, or why not; owed: why it failed last
    PRIMARY KEY (broadcast_id, server)
);
CREATE INDEX broadcast_deliveries_due ON broadcast_deliveries (next_at) WHERE done_at IS NULL;
