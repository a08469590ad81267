-- Addresses that are asked before something is done here. They are asked by age, the oldest first.
CREATE TABLE before_hooks (
    id TEXT NOT NULL PRIMARY KEY,     -- given by the server
    url TEXT NOT NULL,                -- where to
    acts TEXT NOT NULL,               -- before what: a JSON array of send, invite, join, create_room, register, upload
    deadline_ms BIGINT NOT NULL,      -- how long one may take to answer
    on_failure TEXT NOT NULL,         -- what is done without an answer that counts: allow, or refuse
    secret TEXT NOT NULL,             -- what it knows this server by, sealed
    created_by TEXT NOT NULL,         -- who made it
    created_at BIGINT NOT NULL        -- when, milliseconds since 1970
);
