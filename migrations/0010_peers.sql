-- Other servers as this one regards them, what they do, and who changed what.

CREATE TABLE peers (
    pattern TEXT NOT NULL PRIMARY KEY, -- a server's name, or `*.` and a domain: every server below it
    level TEXT NOT NULL,              -- full, limited, restricted or blocked
    inactive_at BIGINT,               -- since when an admin has switched it off, milliseconds since 1970
    alarm TEXT,                       -- which key it signs with instead of a pinned one; NULL: none
    settings TEXT NOT NULL,           -- JSON: endpoint, pinned keys, overrides, limits, approved rooms, notes
    expires_at BIGINT,                -- from then on the row counts for nothing, milliseconds since 1970
    revision BIGINT NOT NULL,         -- audit_log.number of its last change
    changed_by TEXT NOT NULL,         -- who made that change
    changed_at BIGINT NOT NULL        -- when, milliseconds since 1970
);

-- What admins did. Each entry holds the hash of the one before, so that none can be changed or taken out unseen.
CREATE TABLE audit_log (
    number BIGINT NOT NULL PRIMARY KEY, -- from 1 on, without a gap
    at BIGINT NOT NULL,               -- milliseconds since 1970
    actor TEXT NOT NULL,              -- a user id, `command line`, or a part of the server that acted by itself
    action TEXT NOT NULL,             -- such as peer.set
    subject TEXT NOT NULL,            -- what it was done to
    before_json TEXT,                 -- how that was; NULL: there was nothing
    after_json TEXT,                  -- how it became; NULL: there is nothing any more
    reason TEXT NOT NULL,             -- why
    previous_hash TEXT NOT NULL,      -- of the entry before; '': there is none
    hash TEXT NOT NULL                -- SHA-256 over the canonical JSON of everything above, base64
);
CREATE INDEX audit_log_by_subject ON audit_log (subject, number);

-- How often peers did what, by day, so that a change of trust can be tried out on what has happened.
CREATE TABLE peer_acts (
    server TEXT NOT NULL,             -- the peer
    day BIGINT NOT NULL,              -- days since 1970
    capability TEXT NOT NULL,         -- of the trust table
    direction TEXT NOT NULL,          -- in or out
    ceiling TEXT NOT NULL,            -- the level that the room demanded, or ''
    facts TEXT NOT NULL,              -- what was known then, such as contact,!invited
    rule TEXT NOT NULL,               -- by which rule it was refused; '': it was allowed
    acts BIGINT NOT NULL,             -- how often
    PRIMARY KEY (server, day, capability, direction, ceiling, facts, rule)
);
CREATE INDEX peer_acts_by_day ON peer_acts (day);

-- The least trust that the sender's server must have for people to be shown the event; NULL: it doesn't matter. Set where an
-- event came by a server that had less, and never taken back: whether it has more now is looked up.
ALTER TABLE events ADD COLUMN withheld_below TEXT;
