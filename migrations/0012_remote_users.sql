-- What users of other domains last said of themselves, as their servers answered: so much of it is kept as the configuration says.
CREATE TABLE remote_users (
    user_id TEXT NOT NULL PRIMARY KEY, -- whose
    server TEXT NOT NULL,             -- the user's domain, whose rows go when it is trusted less
    display_name TEXT,                -- NULL: none
    avatar_url TEXT,                  -- an mxc:// URI; NULL: none
    fields TEXT NOT NULL,             -- JSON, an object: the other fields of the profile
    fetched_at BIGINT NOT NULL,       -- when the server said so, milliseconds since 1970
    expires_at BIGINT NOT NULL,       -- until when that is taken to be so, milliseconds since 1970
    unanswered_since BIGINT           -- since when the server was asked again in vain, milliseconds since 1970; NULL: it wasn't
);
CREATE INDEX remote_users_by_server ON remote_users (server);
CREATE INDEX remote_users_by_time ON remote_users (fetched_at);
