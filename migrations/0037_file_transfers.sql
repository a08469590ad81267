-- Files that somebody offers somebody: which events are such offers, and what became of them. What is offered, the events say.

CREATE TABLE file_transfers (
    event_nid BIGINT NOT NULL PRIMARY KEY, -- the offer
    event_id TEXT NOT NULL,          -- the offer
    room_nid BIGINT NOT NULL,        -- the conversation of the two
    sender TEXT NOT NULL,            -- who offers; the sender of the offer
    receiver TEXT NOT NULL,          -- to whom
    is_ours BIGINT NOT NULL,         -- 1: the sender is of this server, which says the message with the file; 0: another does
    position BIGINT NOT NULL,        -- when the offer became visible here
    offered_at BIGINT NOT NULL,      -- when it was made, as the offer says, milliseconds since 1970
    expires_at BIGINT NOT NULL,      -- when it can't be accepted any more, likewise
    state TEXT NOT NULL,             -- pending, accepted, refused, withdrawn; failed: accepted, but the file could not be sent
    answered_at BIGINT,              -- when it became so, as the answer says; NULL: it is pending
    message_id TEXT,                 -- the event that has the file; NULL: there is none yet
    send_at BIGINT                   -- when this server sends it, or tries again; NULL: there is nothing to do
);
CREATE UNIQUE INDEX file_transfers_by_event ON file_transfers (event_id);
CREATE INDEX file_transfers_by_sender ON file_transfers (sender, position);
CREATE INDEX file_transfers_by_receiver ON file_transfers (receiver, position);
CREATE INDEX file_transfers_to_send ON file_transfers (send_at) WHERE send_at IS NOT NULL;
