//! Looking for people.

use model::Millis;
use ruma::{OwnedUserId, ServerName, UserId};

use crate::{Error, Row, Store, Write, args, directory};

/// Somebody who was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonRow {
    /// Who.
    pub user_id: OwnedUserId,
    /// The profile's `displayname`, as JSON.
    pub display_name: Option<String>,
    /// The profile's `avatar_url`, as JSON.
    pub avatar_url: Option<String>,
}

impl Store {
    /// The users of `server` whose name or localpart has `term` in it, or whose id is `term`; by id.
    ///
    /// Found are those who share a room with the asker or are in a room that is listed, or that everybody may enter or read; and,
    /// whatever their rooms, the one whose whole id is asked for. The asker is found where everybody would be. Upper and lower case are the same, beyond ASCII only if the
    /// whole of `term` is written as the name is.
    pub async fn search_users(
        &self,
        server: &ServerName,
        asker: &UserId,
        term: &str,
        limit: usize,
    ) -> Result<Vec<PersonRow>, Error> {
        // A join rule is read off its canonical JSON.
        const SEARCH: &str = r#"
            SELECT a.user_id, n.value, p.value
            FROM accounts a
            LEFT JOIN profiles n ON n.user_id = a.user_id AND n.field = 'displayname'
            LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'avatar_url'
            WHERE a.deactivated_at IS NULL
                AND ((a.user_id = $2 AND a.user_id <> $1) OR (
                    (a.user_id LIKE $3 ESCAPE '\' OR LOWER(n.value) LIKE $4 ESCAPE '\' OR n.value LIKE $5 ESCAPE '\')
                    AND EXISTS (
                        SELECT 1
                        FROM memberships m
                        LEFT JOIN memberships own ON own.room_nid = m.room_nid AND own.user_id = $1
                            AND own.membership = 'join'
                        LEFT JOIN directory d ON d.room_nid = m.room_nid
                        LEFT JOIN current_state s ON s.room_nid = m.room_nid AND s.type = 'm.room.join_rules'
                            AND s.state_key = ''
                        LEFT JOIN events e ON e.nid = s.event_nid
                        LEFT JOIN current_state h ON h.room_nid = m.room_nid AND h.type = 'm.room.history_visibility'
                            AND h.state_key = ''
                        LEFT JOIN events v ON v.nid = h.event_nid
                        WHERE m.user_id = a.user_id AND m.membership = 'join'
                            AND ((own.user_id IS NOT NULL AND a.user_id <> $1) OR d.room_nid IS NOT NULL
                                OR e.json LIKE '%"join_rule":"public"%'
                                OR v.json LIKE '%"history_visibility":"world_readable"%')
                    )
                ))
            ORDER BY a.user_id
            LIMIT $6"#;
        let lower = term.to_lowercase();
        let exact = if lower.starts_with('@') { lower.clone() } else { format!("@{lower}:{server}") };
        // The server's own name is in every id: only what stands before it counts.
        let localpart = format!("@%{}%:{}", escaped(lower.trim_start_matches('@')), escaped(server.as_str()));
        let quoted = |text: &str| {
            let json = serde_json::to_string(text).expect("text is JSON");
            format!("%{}%", escaped(&json[1..json.len() - 1]))
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let args = args![asker.as_str(), exact, localpart, quoted(&lower), quoted(term), limit];
        self.query(SEARCH, args).await?.iter().map(person).collect()
    }

    /// The users of `server` who may be found by people of other servers, and whose name or localpart has `term` in it, or,
    /// if `is_exact`, is `term`; by id. Upper and lower case are the same, beyond ASCII only as for [`Self::search_users`].
    ///
    /// Those whose localpart begins with an underscore are nobody's to find: they stand for others.
    pub async fn search_listed_users(
        &self,
        server: &ServerName,
        term: &str,
        is_exact: bool,
        limit: usize,
    ) -> Result<Vec<PersonRow>, Error> {
        const SEARCH: &str = r#"
            SELECT a.user_id, n.value, p.value
            FROM accounts a
            LEFT JOIN profiles n ON n.user_id = a.user_id AND n.field = 'displayname'
            LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'avatar_url'
            WHERE a.deactivated_at IS NULL AND a.user_id NOT LIKE '@\_%' ESCAPE '\'
                AND NOT EXISTS (SELECT 1 FROM unlisted_users u WHERE u.user_id = a.user_id)
                AND (a.user_id = $1 OR a.user_id LIKE $2 ESCAPE '\' OR LOWER(n.value) LIKE $3 ESCAPE '\'
                    OR n.value LIKE $4 ESCAPE '\')
            ORDER BY a.user_id
            LIMIT $5"#;
        let lower = term.to_lowercase();
        let id = if lower.starts_with('@') { lower.clone() } else { format!("@{lower}:{server}") };
        let part = if is_exact { "" } else { "%" };
        let localpart = format!("@{part}{}{part}:{}", escaped(lower.trim_start_matches('@')), escaped(server.as_str()));
        let name = |text: &str| {
            let json = serde_json::to_string(text).expect("text is JSON");
            let text = escaped(&json[1..json.len() - 1]);
            if is_exact { format!("\"{text}\"") } else { format!("%{text}%") }
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let args = args![id, localpart, name(&lower), name(term), limit];
        self.query(SEARCH, args).await?.iter().map(person).collect()
    }

    /// Whether people of other servers may find a user by searching.
    pub async fn is_listed(&self, user_id: &UserId) -> Result<bool, Error> {
        const UNLISTED: &str = "SELECT since FROM unlisted_users WHERE user_id = $1";
        Ok(self.query(UNLISTED, args![user_id.as_str()]).await?.is_empty())
    }
}

/// People of other servers may find a user by searching, and full peers are told of the user, or not.
pub fn set_listed(write: &mut Write, user_id: &UserId, is_listed: bool, now: Millis) {
    const UNLIST: &str = "INSERT INTO unlisted_users (user_id, since) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    match is_listed {
        true => write.run("DELETE FROM unlisted_users WHERE user_id = $1", args![user_id.as_str()]),
        false => write.run(UNLIST, args![user_id.as_str(), now]),
    };
    match is_listed {
        true => directory::show(write, user_id),
        false => directory::hide(write, user_id),
    }
}

fn person(row: &Row) -> Result<PersonRow, Error> {
    Ok(PersonRow { user_id: row.parse(0)?, display_name: row.opt_text(1)?, avatar_url: row.opt_text(2)? })
}

/// For LIKE: as it is written, without wildcards.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '\\' | '%' | '_') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}
