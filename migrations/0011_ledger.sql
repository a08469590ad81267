-- The delivery ledger: what became of each event that other servers were owed. Nothing is changed in it: what is learned
-- later of an event is a row of its own.

-- The numbers by which the ledger names other servers.
CREATE TABLE ledger_destinations (
    nid BIGINT NOT NULL PRIMARY KEY,  -- the server's number in the ledger
    destination TEXT NOT NULL UNIQUE  -- the server
);

CREATE TABLE ledger (
    event_nid BIGINT NOT NULL,        -- events.nid
    destination_nid BIGINT NOT NULL,  -- ledger_destinations.nid
    outcome BIGINT NOT NULL,          -- 1 accepted, 2 refused, 3 skipped: the server got a later one to catch up from,
                                      -- 4 refused and fetched later, 5 skipped and fetched later
    position BIGINT NOT NULL,         -- when this became known, in the one order of everything
    queued_at BIGINT NOT NULL,        -- since when the server was owed it, milliseconds since 1970
    sent_at BIGINT,                   -- when the transaction that got through was first sent, likewise; NULL: it was never sent
    answered_at BIGINT NOT NULL,      -- when this became known, likewise
    reason TEXT,                      -- why it was refused; NULL: it wasn't
    PRIMARY KEY (event_nid, destination_nid, outcome)
);
-- In the order in which it became known: for those who export it, and for what is summed up and thrown away.
CREATE INDEX ledger_by_position ON ledger (position, event_nid);
-- What servers may fetch later.
CREATE INDEX ledger_missed ON ledger (destination_nid, event_nid) WHERE outcome <> 1;

-- The ledger summed up by the days on which events were queued; it outlives the single rows.
CREATE TABLE ledger_days (
    day BIGINT NOT NULL,              -- days since 1970
    destination_nid BIGINT NOT NULL,  -- ledger_destinations.nid
    outcome BIGINT NOT NULL,          -- as in ledger
    bucket BIGINT NOT NULL,           -- how long it took: a place on the scale of lags
    events BIGINT NOT NULL,           -- how many
    lag_sum BIGINT NOT NULL,          -- how long they took together, milliseconds
    lag_max BIGINT NOT NULL,          -- how long the slowest took, likewise
    PRIMARY KEY (destination_nid, day, outcome, bucket)
);

-- Up to which position the ledger is summed up.
INSERT INTO positions (stream, position) VALUES ('ledger', 0);
