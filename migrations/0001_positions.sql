-- The counters of this database. Each is advanced under the lock of its row.
CREATE TABLE positions (
    stream TEXT NOT NULL PRIMARY KEY, -- 'main': the stream positions; 'nid': the numbers of rooms, events and snapshots
    position BIGINT NOT NULL          -- the last one given out
);
INSERT INTO positions (stream, position) VALUES ('main', 0), ('nid', 0);
