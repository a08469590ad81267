-- The links between this server's broker and those of peers.
CREATE TABLE broker_links (
    peer TEXT NOT NULL PRIMARY KEY,   -- the other server
    ours TEXT NOT NULL,               -- the password of its user at our broker, sealed by the key in broker.secret
    ours_at BIGINT NOT NULL,          -- when that was made, milliseconds since 1970
    given_at BIGINT,                  -- when the peer was last told it; NULL: not yet
    theirs TEXT,                      -- how to log in at its broker, JSON, sealed in the same way; NULL: not known
    theirs_at BIGINT,                 -- when that was heard, or set
    by_hand_at BIGINT,                -- when an admin set it, so that the peer isn't asked; NULL: it is what the peer said
    trouble TEXT                      -- why the link can't be made as it should be, in a sentence; NULL: nothing is wrong
);
