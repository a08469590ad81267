-- How far those have come who follow everything that happens here, in the order of the one stream.
CREATE TABLE followers (
    name TEXT NOT NULL PRIMARY KEY,   -- who follows: 'bus'
    position BIGINT NOT NULL,         -- everything up to here was passed on; what comes after may have been, too
    moved_at BIGINT NOT NULL          -- when it came so far, milliseconds since 1970
);
