-- What administrators keep in order: accounts that may not do everything, reports, addresses that are kept out, what is counted, and
-- what is set while the server runs.

ALTER TABLE accounts ADD COLUMN suspended_at BIGINT; -- since when its owner may read and leave, and say nothing; NULL: not so
ALTER TABLE accounts ADD COLUMN locked_at BIGINT;    -- since when its owner may do nothing but log out; NULL: not so
CREATE INDEX accounts_suspended ON accounts (user_id) WHERE suspended_at IS NOT NULL;

CREATE TABLE reports (
    nid BIGINT NOT NULL PRIMARY KEY,  -- from 1 on, in the order in which they came
    reporter TEXT NOT NULL,           -- who reports, a user of this server
    kind TEXT NOT NULL,               -- event, room or user: what is reported
    room_id TEXT,                     -- the room, or that of the event
    event_id TEXT,                    -- the event
    user_id TEXT,                     -- the user, or who made the event
    reason TEXT NOT NULL,             -- what the reporter says; may be empty
    reported_at BIGINT NOT NULL,      -- milliseconds since 1970
    decision TEXT,                    -- dismissed or acted: what came of it; NULL: it waits
    note TEXT,                        -- what who decided says
    decided_by TEXT,                  -- who decided
    decided_at BIGINT                 -- when, milliseconds since 1970
);
CREATE INDEX reports_waiting ON reports (nid) WHERE decided_at IS NULL;
CREATE INDEX reports_by_reporter ON reports (reporter, reported_at);

CREATE TABLE ip_bans (
    network TEXT NOT NULL PRIMARY KEY, -- 203.0.113.0/24: the addresses that are refused
    reason TEXT NOT NULL,             -- for other admins
    banned_by TEXT NOT NULL,          -- the admin who did it
    banned_at BIGINT NOT NULL,        -- milliseconds since 1970
    expires_at BIGINT,                -- from then on it counts for nothing; NULL: it lasts until it is lifted
    revision BIGINT NOT NULL          -- audit_log.number of its last change
);

-- How much of what there was on each day, in UTC. Added to now and then, so that nobody has to count everything.
CREATE TABLE daily_figures (
    day BIGINT NOT NULL,              -- days since 1970
    figure TEXT NOT NULL,             -- messages: said in rooms by anybody; local_messages: by users of this server
    count BIGINT NOT NULL,            -- how many
    PRIMARY KEY (day, figure)
);

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,   -- as in the configuration: registration.enabled …
    value TEXT NOT NULL,              -- JSON
    revision BIGINT NOT NULL,         -- audit_log.number of its last change
    changed_by TEXT NOT NULL,         -- the admin who changed it last
    changed_at BIGINT NOT NULL        -- when, milliseconds since 1970
);
