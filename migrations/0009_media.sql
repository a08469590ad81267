-- Images and files. Their bytes are in the media folder, in files that are called by what they hold.

CREATE TABLE media (
    origin TEXT NOT NULL,             -- whose it is: this server, or another, of whose file this is a copy
    media_id TEXT NOT NULL,           -- what it is called there: mxc://origin/media_id
    uploader TEXT,                    -- the user who made it; NULL: somebody of another server
    created_at BIGINT NOT NULL,       -- when it was named or fetched, milliseconds since 1970
    expires_at BIGINT,                -- until when a name without content may be filled, likewise; NULL: it never was one
    sha256 TEXT,                      -- of its content, in hex, and so which file; NULL: there is no content yet
    size BIGINT NOT NULL,             -- of its content, bytes
    content_type TEXT NOT NULL,       -- what the uploader or the other server calls it; not what it need be
    file_name TEXT,                   -- what the uploader called it, without any path
    last_access_at BIGINT NOT NULL,   -- when somebody last asked for it, within an hour, likewise
    PRIMARY KEY (origin, media_id)
);
CREATE INDEX media_by_file ON media (sha256);
CREATE INDEX media_by_access ON media (last_access_at);
-- Names that wait for their content.
CREATE INDEX media_awaited ON media (uploader, expires_at) WHERE sha256 IS NULL;
