-- What each connection of sliding sync has been told: any node goes on where another one stopped.

CREATE TABLE sliding_connections (
    user_id TEXT NOT NULL,            -- whose
    device_id TEXT NOT NULL,          -- of which device
    conn_id TEXT NOT NULL,            -- which of the device's connections, as the client calls it
    version BIGINT NOT NULL,          -- the position of the write; the client's pos names it
    state TEXT NOT NULL,              -- JSON: what the connection knows of which rooms
    created_at BIGINT NOT NULL,       -- milliseconds since 1970
    PRIMARY KEY (user_id, device_id, conn_id, version)
);
