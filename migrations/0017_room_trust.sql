-- Which rooms demand trust is looked up whenever the trust in some server changes: the few of all that have this state.
CREATE INDEX current_state_trust ON current_state (room_nid) WHERE type = 'org.comity.room.trust';
