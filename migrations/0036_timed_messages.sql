-- What is said later, and what doesn't stay.

CREATE TABLE scheduled_messages (
    id TEXT NOT NULL PRIMARY KEY,    -- random
    sender TEXT NOT NULL,            -- who says it
    device_id TEXT NOT NULL,         -- the device on which that was said
    room_id TEXT NOT NULL,           -- in which room
    scope TEXT NOT NULL,             -- within which the client's names of messages are unique
    msg_id TEXT NOT NULL,            -- what the client calls it
    type TEXT NOT NULL,              -- the type of the event
    content TEXT NOT NULL,           -- its content, JSON object
    due_at BIGINT NOT NULL,          -- when it is to be said, milliseconds since 1970
    created_at BIGINT NOT NULL,      -- when it was scheduled
    state TEXT NOT NULL,             -- waiting; sending: it can't be taken back any more; failed
    next_at BIGINT NOT NULL,         -- when it is tried next
    attempts BIGINT NOT NULL,        -- how often it was tried
    failure TEXT                     -- why it could not be said, for people; NULL: nothing is known against it
);
CREATE UNIQUE INDEX scheduled_messages_by_msg_id ON scheduled_messages (sender, device_id, scope, msg_id);
CREATE INDEX scheduled_messages_by_sender ON scheduled_messages (sender, due_at);
CREATE INDEX scheduled_messages_due ON scheduled_messages (state, next_at);

CREATE TABLE expiring_messages (
    event_nid BIGINT NOT NULL PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    sender TEXT NOT NULL,            -- of this server
    event_id TEXT NOT NULL,
    position BIGINT NOT NULL,        -- when it became visible
    after_read BIGINT,               -- so many milliseconds after somebody else has read it, it goes; NULL: whoever reads it
    expires_at BIGINT                -- when it goes, milliseconds since 1970; NULL: nobody else has read it yet
);
CREATE INDEX expiring_messages_due ON expiring_messages (expires_at);
