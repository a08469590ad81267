-- How far what was sent in a room has come onto devices of people of other servers, as these say.
CREATE TABLE device_receipts (
    room_nid BIGINT NOT NULL,         -- rooms.nid
    user_id TEXT NOT NULL,            -- whose device
    event_position BIGINT NOT NULL,   -- everything in the room up to here has come onto one of them
    at BIGINT NOT NULL,               -- when that was heard, milliseconds since 1970
    PRIMARY KEY (room_nid, user_id)
);
