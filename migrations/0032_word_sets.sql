-- Words that people of this server don't get past with, in sets that are changed as a whole.

CREATE TABLE word_sets (
    name TEXT NOT NULL PRIMARY KEY,   -- what admins call it
    action TEXT NOT NULL,             -- reject: what has such a word isn't sent; replace: something else stands in its place
    replacement TEXT,                 -- what stands there; NULL: an asterisk for each letter
    words TEXT NOT NULL,              -- JSON array of texts
    version BIGINT NOT NULL,          -- counts how often it was changed
    changed_by TEXT NOT NULL,         -- the admin who changed it last
    changed_at BIGINT NOT NULL        -- when, milliseconds since 1970
);
