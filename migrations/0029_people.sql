-- People: who asked whom for friendship, what they note about their friends, and what they have read of what they are notified of.
-- What became of a request, and whether two are friends, is written nowhere: it follows from who is in the room that the request is
-- an invitation to.

-- A row for each user of this server who asked, or was asked, by an invitation.
CREATE TABLE friend_requests (
    user_id TEXT NOT NULL,            -- a user of this server, who asked or was asked
    friend_id TEXT NOT NULL,          -- the other one
    room_nid BIGINT NOT NULL,         -- rooms.nid: the direct room
    event_nid BIGINT NOT NULL,        -- events.nid: the invitation, in which stands what was said
    is_incoming BIGINT NOT NULL,      -- 1: the other one asked
    asked_at BIGINT NOT NULL,         -- when, as the invitation says, milliseconds since 1970
    position BIGINT NOT NULL,         -- when the invitation became visible
    PRIMARY KEY (user_id, friend_id, room_nid)
);
CREATE INDEX friend_requests_by_position ON friend_requests (user_id, position);

-- What a user notes about a friend. Who notes nothing and removes nobody has no row.
CREATE TABLE friend_cards (
    user_id TEXT NOT NULL,            -- whose note, a user of this server
    friend_id TEXT NOT NULL,          -- about whom
    remark TEXT,                      -- what the user calls the friend; NULL: nothing else than others do
    tags TEXT NOT NULL,               -- the groups that the user puts the friend into, a JSON array of texts
    removed_upto BIGINT NOT NULL,     -- the user wants to know no more of requests up to this position; 0: of all
    position BIGINT NOT NULL,         -- when this was last changed
    PRIMARY KEY (user_id, friend_id)
);
CREATE INDEX friend_cards_by_position ON friend_cards (user_id, position);

-- What users have read of what they are notified of. What that is, is written nowhere: it follows from invitations, requests,
-- mentions and broadcasts, each of which has its position.
CREATE TABLE notification_marks (
    user_id TEXT NOT NULL PRIMARY KEY, -- a user of this server
    read_upto BIGINT NOT NULL         -- everything up to this position was read
);

-- What was read after that mark, one by one.
CREATE TABLE notification_reads (
    user_id TEXT NOT NULL,            -- a user of this server
    position BIGINT NOT NULL,         -- the position of what was read
    read_at BIGINT NOT NULL,          -- milliseconds since 1970
    PRIMARY KEY (user_id, position)
);
