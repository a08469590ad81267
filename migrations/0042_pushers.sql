-- Who is told, outside of people's clients, of what notifies them: push gateways, and their own mailboxes.

CREATE TABLE pushers (
    user_id TEXT NOT NULL,            -- who is notified
    app_id TEXT NOT NULL,             -- which application, as it calls itself
    pushkey TEXT NOT NULL,            -- whom the gateway is to tell; of a mailbox its address
    kind TEXT NOT NULL,               -- http or email
    app_display_name TEXT NOT NULL,   -- for people
    device_display_name TEXT NOT NULL, -- for people
    profile_tag TEXT,                 -- as the client gave it
    lang TEXT NOT NULL,               -- in which the user wants to be told
    data TEXT NOT NULL,               -- JSON object, as the client gave it: url, format and what the gateway gets besides
    device_id TEXT,                   -- it goes with this device; NULL: a mailbox, which goes with the address
    disabled_at BIGINT,               -- since when it is told nothing, milliseconds since 1970; NULL: it is told
    set_at BIGINT NOT NULL,           -- when the client set it last, milliseconds since 1970
    since BIGINT NOT NULL,            -- what happened up to this position isn't told
    link TEXT NOT NULL,               -- random: by this a link in a letter names it
    badge BIGINT,                     -- how much it was last told to be unread; NULL: it was told nothing yet
    failing_since BIGINT,             -- since when it takes nothing, milliseconds since 1970
    failures BIGINT NOT NULL,         -- how often in a row it took nothing
    retry_at BIGINT NOT NULL,         -- it is told nothing before, milliseconds since 1970
    PRIMARY KEY (user_id, app_id, pushkey)
);
CREATE INDEX pushers_by_key ON pushers (app_id, pushkey);
CREATE UNIQUE INDEX pushers_by_link ON pushers (link);

CREATE TABLE push_queue (
    user_id TEXT NOT NULL,            -- the pusher's
    app_id TEXT NOT NULL,             -- the pusher's
    pushkey TEXT NOT NULL,            -- the pusher's
    position BIGINT NOT NULL,         -- the position of the event that it is to be told of; 0: only of how much is unread
    event_nid BIGINT,                 -- events.nid; NULL: it is to be told of how much is unread
    due_at BIGINT NOT NULL,           -- when, milliseconds since 1970
    queued_at BIGINT NOT NULL,        -- since when it waits, milliseconds since 1970
    PRIMARY KEY (user_id, app_id, pushkey, position)
);
CREATE INDEX push_queue_due ON push_queue (due_at);
