-- What rooms that other servers share need besides.

-- The room's state right after the event, where that isn't the state in which it was made and what it changed: it came from
-- a branch of the room's graph, and the branches' states were resolved. NULL: it is just that.
ALTER TABLE events ADD COLUMN room_state_nid BIGINT;

-- Events that events of the timeline follow, and that are not in the timeline themselves: history that other servers have.
CREATE TABLE backward_extremities (
    room_nid BIGINT NOT NULL,         -- rooms.nid
    event_id TEXT NOT NULL,           -- the event that is missing
    PRIMARY KEY (room_nid, event_id)
);

-- Redactions that came before what they redact.
CREATE TABLE pending_redactions (
    target_id TEXT NOT NULL,          -- the event id that is to be redacted
    redaction_nid BIGINT NOT NULL,    -- events.nid of the redaction
    PRIMARY KEY (target_id, redaction_nid)
);
