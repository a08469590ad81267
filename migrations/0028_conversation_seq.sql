-- The events of a room's timeline are numbered, so that who reads them can tell a gap from a loss.

-- 1, 2, 3 … in each room, in the order of positions, without a gap. NULL: an outlier, or history that came later.
ALTER TABLE events ADD COLUMN seq BIGINT;

UPDATE events
SET seq = numbered.place
FROM (
    SELECT e.nid AS event_nid, ROW_NUMBER() OVER (PARTITION BY e.room_nid ORDER BY e.position) AS place
    FROM events e
    WHERE e.position > 0
) AS numbered
WHERE events.nid = numbered.event_nid;

CREATE UNIQUE INDEX events_by_seq ON events (room_nid, seq) WHERE seq IS NOT NULL;

-- What people took out of their own sight. It stays in the conversation, and everybody else sees it.
CREATE TABLE hidden_messages (
    user_id TEXT NOT NULL,            -- who
    room_nid BIGINT NOT NULL,         -- rooms.nid
    event_id TEXT NOT NULL,           -- what
    hidden_at BIGINT NOT NULL,        -- milliseconds since 1970
    PRIMARY KEY (user_id, room_nid, event_id)
);
