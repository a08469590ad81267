-- Files that come in pieces: what there is to know until the last of them has come. The pieces are in the media folder.

CREATE TABLE uploads (
    media_id TEXT NOT NULL PRIMARY KEY, -- media.media_id of the name of this server that waits for the file
    uploader TEXT NOT NULL,           -- media.uploader of it
    length BIGINT NOT NULL,           -- how many bytes the file will have
    sha256 TEXT,                      -- what it will hash to, in hex, as its uploader says; NULL: that was not said
    content_type TEXT NOT NULL,       -- what its uploader calls it
    file_name TEXT,                   -- what it is called, without any path; NULL: nothing
    expires_at BIGINT NOT NULL        -- when it is given up, milliseconds since 1970
);
CREATE INDEX uploads_by_uploader ON uploads (uploader);
CREATE INDEX uploads_by_expiry ON uploads (expires_at);
-- What somebody has uploaded, the latest first, and how much that is.
CREATE INDEX media_by_uploader ON media (uploader, created_at, media_id) WHERE uploader IS NOT NULL;
