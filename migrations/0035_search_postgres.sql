-- What was said can be looked for. The texts are cut into terms before they come here, so no dictionary is asked.

CREATE TABLE search_documents (
    position BIGINT NOT NULL PRIMARY KEY, -- events.position of what can be found; negative: history that came later
    nid BIGINT NOT NULL,              -- events.nid of the same
    room_nid BIGINT NOT NULL,         -- rooms.nid
    text_nid BIGINT NOT NULL,         -- events.nid of whose text is in the index: the event itself, or its latest edit
    sent_at BIGINT NOT NULL,          -- when it was made, as its maker says, milliseconds since 1970
    terms TSVECTOR NOT NULL           -- what begins with a private character says where and by whom
);
-- What an edit said leaves the index when the edit is redacted.
CREATE INDEX search_documents_by_text ON search_documents (text_nid);
CREATE INDEX search_documents_by_term ON search_documents USING GIN (terms);

-- History that came later is found by who follows the stream.
CREATE INDEX events_backfilled ON events (position) WHERE position < 0;
