-- Which rooms demand trust is looked up whenever the trust in some server changes: the few of all that have this state.
CREATE INDEX current_state_trust ON current_state (room_nid) WHERE type = 'org.comity.room.trust';

-- In how many rooms people of a server are is counted where an admin has limited that.
ALTER TABLE memberships ADD COLUMN server TEXT; -- the member's; what follows the first colon of user_id
-- Of an id, what stands before that colon is made of these letters.
UPDATE memberships
SET server = substr(ltrim(user_id,
    '!"#$%&''()*+,-./0123456789;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~'), 2);
CREATE INDEX memberships_by_server ON memberships (server, room_nid) WHERE membership = 'join';
