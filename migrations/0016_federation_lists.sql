-- Lists of servers that deployments publish, signed: ours, and those that this one goes by.

-- What this deployment publishes: its latest version, and no other.
CREATE TABLE published_lists (
    version BIGINT NOT NULL PRIMARY KEY, -- only grows
    issued_at BIGINT NOT NULL,        -- milliseconds since 1970
    expires_at BIGINT NOT NULL,       -- until when others go by it, likewise
    entries TEXT NOT NULL             -- JSON: what is said of which server
);

-- The lists of others that this deployment goes by.
CREATE TABLE list_subscriptions (
    publisher TEXT NOT NULL PRIMARY KEY, -- the server whose list it is
    highest_level TEXT NOT NULL,      -- how far its list can make this server trust others: full, limited, restricted or blocked
    pins TEXT NOT NULL,               -- JSON: the only keys that may sign the list, by their ids, base64
    version BIGINT NOT NULL,          -- the newest version that was taken: no older one ever is
    digest TEXT NOT NULL,             -- SHA-256 of what was signed in it, base64: no other content is taken under that version
    expires_at BIGINT NOT NULL,       -- as that version says, milliseconds since 1970
    taken_at BIGINT NOT NULL,         -- when that version was taken
    closed_at BIGINT,                 -- since when the list, out of date, lifts nobody new; NULL: it is not closed
    revision BIGINT NOT NULL,         -- audit_log.number of the last change of the above
    changed_by TEXT NOT NULL,         -- who made that change
    changed_at BIGINT NOT NULL,       -- when, milliseconds since 1970
    checked_at BIGINT NOT NULL,       -- when the publisher last answered with that version or a newer one that could be taken
    next_at BIGINT NOT NULL,          -- when it is asked again
    refused_at BIGINT,                -- when something else came last; NULL: what came last could be taken
    refusal TEXT,                     -- why it was not taken, in one word
    refusal_reason TEXT               -- the same in a sentence
);

-- The versions that were taken.
CREATE TABLE list_documents (
    publisher TEXT NOT NULL PRIMARY KEY, -- list_subscriptions.publisher
    document TEXT NOT NULL            -- JSON: the whole list as it was signed
);

-- With which of the listed servers this one had had dealings when a list was closed to newcomers.
CREATE TABLE list_acquaintances (
    publisher TEXT NOT NULL,          -- list_subscriptions.publisher
    server TEXT NOT NULL,             -- a server in its list
    PRIMARY KEY (publisher, server)
);

-- Listed servers that have shown other keys than their list names.
CREATE TABLE listed_keys (
    server TEXT NOT NULL PRIMARY KEY, -- the server
    listed TEXT NOT NULL,             -- JSON: the keys in its list; as soon as the list has others, this row counts for nothing
    moved TEXT,                       -- JSON: the keys to which one of those has signed over; NULL: none
    alarm TEXT                        -- which key it shows that none of those has signed; NULL: none
);
