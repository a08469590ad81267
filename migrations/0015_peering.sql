-- Offers to be peers, and what became of them.
CREATE TABLE peerings (
    id TEXT NOT NULL PRIMARY KEY,     -- of the offer, as the server that made it chose it
    peer TEXT NOT NULL,               -- the other server
    is_ours BIGINT NOT NULL,          -- 1: this server made the offer; 0: the other one did
    state TEXT NOT NULL,              -- offered, accepted, agreed, withdrawn, refused, ended
    document TEXT NOT NULL,           -- the offer or the agreement, JSON with its signatures
    expires_at BIGINT NOT NULL,       -- from then on the offer can't be accepted, milliseconds since 1970
    sent_at BIGINT,                   -- when the other server took what this one has to say of it; NULL: it has not
    told TEXT,                        -- how the other server was last told that it is trusted here
    heard TEXT,                       -- how the other server last said to trust this one
    heard_number BIGINT NOT NULL,     -- the number of that notice, as the other server counts
    trouble TEXT,                     -- what went wrong last
    changed_by TEXT NOT NULL,         -- who brought it into this state
    changed_at BIGINT NOT NULL        -- milliseconds since 1970
);
CREATE INDEX peerings_by_peer ON peerings (peer);
