-- What other servers are still owed.

CREATE TABLE outbox (
    destination TEXT NOT NULL,        -- the server that has not acknowledged it yet
    position BIGINT NOT NULL,         -- events.position
    event_nid BIGINT NOT NULL,        -- events.nid
    PRIMARY KEY (destination, position)
);
