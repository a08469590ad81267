-- What waits for a moderator lies with what is said later: its state is `held`, and `failure` says why, for moderators.

ALTER TABLE scheduled_messages ADD COLUMN approved_by TEXT; -- the moderator who has let it through; NULL: nobody had to
CREATE INDEX scheduled_messages_held ON scheduled_messages (created_at, id) WHERE state = 'held';
