-- The directory that full peers share: people, what they are in the organisation, and their SIP phones; ours, and what peers told.

-- What peers are told of here, people and units, in the order in which it changed.
CREATE TABLE directory_entries (
    entry TEXT NOT NULL PRIMARY KEY,  -- accounts.user_id, or unit: and directory_units.unit_id
    position BIGINT NOT NULL,         -- when it last changed; 0: before there was a directory
    hidden BIGINT                     -- the position at which it was taken out of what peers are told; NULL: they are told
);
CREATE INDEX directory_entries_by_position ON directory_entries (position, entry);
INSERT INTO directory_entries (entry, position, hidden)
SELECT a.user_id, 0, CASE WHEN u.user_id IS NULL AND a.erased_at IS NULL THEN NULL ELSE 0 END
FROM accounts a
LEFT JOIN unlisted_users u ON u.user_id = a.user_id
WHERE a.user_id NOT LIKE '@\_%' ESCAPE '\';

-- The parts of the organisation.
CREATE TABLE directory_units (
    unit_id TEXT NOT NULL PRIMARY KEY, -- as an admin called it: small letters, digits, . _ -
    name TEXT NOT NULL,               -- as people read it
    parent TEXT                       -- the unit that it is a part of; NULL: none
);

-- What people are in the organisation; who has no row is nothing that is known of.
CREATE TABLE directory_people (
    user_id TEXT NOT NULL PRIMARY KEY, -- accounts.user_id
    title TEXT,                       -- what the person does there; NULL: not set
    department TEXT,                  -- where, in words; NULL: not set
    unit_id TEXT                      -- where, as directory_units has it; NULL: not set
);
CREATE INDEX directory_people_by_unit ON directory_people (unit_id);

-- The SIP phones of this server's people.
CREATE TABLE sip_phones (
    user_id TEXT NOT NULL,            -- accounts.user_id
    number TEXT NOT NULL,             -- what one dials: digits, * and #, perhaps a + before them
    uri TEXT,                         -- sip: or sips:; NULL: not set
    kind TEXT NOT NULL,               -- desk, softphone, mobile, conference, fax or other
    label TEXT,                       -- for people; NULL: none
    PRIMARY KEY (user_id, number)
);
CREATE INDEX sip_phones_by_number ON sip_phones (number);

-- How far the directories of peers were read.
CREATE TABLE cascade_peers (
    server TEXT NOT NULL PRIMARY KEY, -- whose
    token TEXT,                       -- from where on, as the peer says it; NULL: from the beginning
    walk BIGINT NOT NULL,             -- how often it was begun from the beginning
    whole BIGINT NOT NULL,            -- the last such walk that came to the end; 0: none did
    swept BIGINT NOT NULL,            -- what no walk since told again was removed after this one
    walked BIGINT NOT NULL,           -- how many entries it told since it last said that there are no more
    asked_at BIGINT,                  -- when it was last asked, milliseconds since 1970
    told_at BIGINT,                   -- when it last said that there are no more, milliseconds since 1970; NULL: never
    next_at BIGINT NOT NULL,          -- when it is asked again, milliseconds since 1970
    failures BIGINT NOT NULL,         -- how often it was asked in vain since it last answered as it should
    trouble TEXT,                     -- why that was, in a sentence; NULL: it wasn't
    refused BIGINT NOT NULL           -- how many of its entries were not taken
);

-- People of peers, as their own servers told.
CREATE TABLE cascade_people (
    user_id TEXT NOT NULL PRIMARY KEY, -- whose
    server TEXT NOT NULL,             -- cascade_peers.server, which is the user's own
    walk BIGINT NOT NULL,             -- cascade_peers.walk when it was last told
    closed_at BIGINT,                 -- when it was heard that the account is closed, milliseconds since 1970; NULL: it is open
    display_name TEXT,                -- NULL: none
    folded_name TEXT,                 -- the same in small letters
    avatar_url TEXT,                  -- an mxc:// URI; NULL: none
    title TEXT,                       -- as in directory_people
    department TEXT,                  -- as in directory_people
    unit_id TEXT                      -- a unit of the same server
);
CREATE INDEX cascade_people_by_server ON cascade_people (server, user_id);

-- Their SIP phones.
CREATE TABLE cascade_phones (
    user_id TEXT NOT NULL,            -- cascade_people.user_id
    number TEXT NOT NULL,             -- as in sip_phones
    server TEXT NOT NULL,             -- cascade_people.server
    walk BIGINT NOT NULL,             -- cascade_people.walk
    uri TEXT,                         -- as in sip_phones
    kind TEXT NOT NULL,               -- as in sip_phones
    label TEXT,                       -- as in sip_phones
    PRIMARY KEY (user_id, number)
);
CREATE INDEX cascade_phones_by_number ON cascade_phones (number);
CREATE INDEX cascade_phones_by_server ON cascade_phones (server, walk);

-- The parts of their organisations.
CREATE TABLE cascade_units (
    server TEXT NOT NULL,             -- cascade_peers.server
    unit_id TEXT NOT NULL,            -- as that server calls it
    walk BIGINT NOT NULL,             -- cascade_peers.walk when it was last told
    name TEXT NOT NULL,               -- as people read it
    parent TEXT,                      -- the unit of the same server that it is a part of; NULL: none
    PRIMARY KEY (server, unit_id)
);
