-- Events that a client has the server send later, unless it says otherwise until then: MSC4140.

CREATE TABLE delayed_events (
    id TEXT NOT NULL PRIMARY KEY,    -- random; who knows it may restart, send and cancel the event
    sender TEXT NOT NULL,            -- who sends it
    device_id TEXT NOT NULL,         -- the device that asked for it
    room_id TEXT NOT NULL,           -- into which room
    txn_id TEXT NOT NULL,            -- what the client calls the request; the id, where it has no name for it
    type TEXT NOT NULL,              -- the type of the event
    state_key TEXT,                  -- NULL: it is no state event
    content TEXT NOT NULL,           -- its content, JSON object
    delay_ms BIGINT NOT NULL,        -- how long it waits, from running_since on
    running_since BIGINT NOT NULL,   -- when it was scheduled or last restarted, milliseconds since 1970
    next_at BIGINT NOT NULL,         -- when it is sent, or tried again
    state TEXT NOT NULL,             -- waiting; sending: it can't be cancelled any more; sent; cancelled; failed
    attempts BIGINT NOT NULL,        -- how often it was tried
    event_id TEXT,                   -- what it became; NULL: nothing yet
    failure TEXT,                    -- why it was not sent, for people; NULL: nothing is known against it
    finalised_at BIGINT              -- when it was sent, cancelled or given up; NULL: it waits
);
CREATE UNIQUE INDEX delayed_events_by_txn_id ON delayed_events (sender, device_id, room_id, txn_id);
CREATE INDEX delayed_events_due ON delayed_events (state, next_at);
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_at);
