-- Several nodes on one database: which of them does what only one may do at a time.

CREATE TABLE nodes (
    node TEXT NOT NULL PRIMARY KEY,     -- what a node calls itself: the same after it was started again
    beat BIGINT NOT NULL                -- grows for as long as the node lives; where it stands still, others take over
);

CREATE TABLE duties (
    part BIGINT NOT NULL PRIMARY KEY,   -- 0 to 63: what only one may do falls into so many parts, by its name
    node TEXT NOT NULL,                 -- who does what falls into the part; empty: nobody
    token BIGINT NOT NULL               -- grows whenever somebody takes the part: a Write of an earlier holder is refused
);

-- What each commit changed, for nodes that have to bring up to date what they remember. The latest few thousand positions.
CREATE TABLE journal (
    upto BIGINT NOT NULL PRIMARY KEY,   -- the last position of the commit
    base BIGINT NOT NULL,               -- the last position before it
    changes TEXT NOT NULL               -- pointers to what changed, by position, JSON
);
