-- Addresses that are told what happens here. How far each has come stands in followers, as 'webhook/' and its id.
CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,     -- given by the server
    url TEXT NOT NULL,                -- where to
    patterns TEXT NOT NULL,           -- which routing keys it is told, a JSON array
    secret TEXT NOT NULL,             -- what it knows this server by, sealed
    created_by TEXT NOT NULL,         -- who made it
    created_at BIGINT NOT NULL,       -- when, milliseconds since 1970
    stopped_at BIGINT,                -- since when it is told nothing
    stopped_why TEXT,                 -- and why
    replay_from BIGINT                -- it is to be told again what came after this position
);

-- What an address did not take, however often it was told.
CREATE TABLE webhook_dead_letters (
    webhook_id TEXT NOT NULL,         -- webhooks.id
    message_id TEXT NOT NULL,         -- the id in the envelope
    routing_key TEXT NOT NULL,
    envelope TEXT NOT NULL,           -- as it was told, JSON
    reason TEXT NOT NULL,             -- what came of the last attempt
    at BIGINT NOT NULL,               -- when it was given up, milliseconds since 1970
    PRIMARY KEY (webhook_id, message_id)
);
