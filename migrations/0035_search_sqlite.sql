-- What was said can be looked for. The texts are cut into terms before they come here, so the engine splits at spaces only.

CREATE TABLE search_documents (
    position BIGINT NOT NULL PRIMARY KEY, -- events.position of what can be found; negative: history that came later
    nid BIGINT NOT NULL,              -- events.nid of the same
    room_nid BIGINT NOT NULL,         -- rooms.nid
    text_nid BIGINT NOT NULL,         -- events.nid of whose text is in the index: the event itself, or its latest edit
    sent_at BIGINT NOT NULL           -- when it was made, as its maker says, milliseconds since 1970
);
-- What an edit said leaves the index when the edit is redacted.
CREATE INDEX search_documents_by_text ON search_documents (text_nid);

-- rowid: position + 2^52, so that it is never negative. Nothing of a text is kept but its terms.
CREATE VIRTUAL TABLE search_index USING fts5 (
    terms,                            -- with spaces between them; what begins with a private character says where and by whom
    content = '',
    contentless_delete = 1,
    detail = 'none',
    tokenize = 'ascii'
);

-- History that came later is found by who follows the stream.
CREATE INDEX events_backfilled ON events (position) WHERE position < 0;
