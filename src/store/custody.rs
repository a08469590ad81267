//! Accounts as administrators see them, and those that may not do everything.

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Row, Store, Write, args};

/// An account, and what is beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodyRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// What they are called, JSON.
    pub display_name: Option<String>,
    /// Since when it exists.
    pub created_at: Millis,
    /// Since when the user administrates this server.
    pub admin_since: Option<Millis>,
    /// The role that was given besides.
    pub role: Option<String>,
    /// When it was closed.
    pub deactivated_at: Option<Millis>,
    /// Since when its owner may only read and leave.
    pub suspended_at: Option<Millis>,
    /// Since when its owner may only log out.
    pub locked_at: Option<Millis>,
    /// When a device of it was last seen.
    pub last_seen_at: Option<Millis>,
}

/// Which accounts are looked for. What is empty leaves none out.
#[derive(Clone, Copy, Debug, Default)]
pub struct CustodySearch<'a> {
    /// A part of the user id or of the display name.
    pub term: &'a str,
    /// `active`, `suspended`, `locked` or `deactivated`.
    pub state: &'a str,
    /// `user`, `auditor`, `operator`, `broadcaster` or `admin`.
    pub role: &'a str,
}

/// Sets since when the owner of an account may only read and leave, and since when only log out.
pub fn put(write: &mut Write, user_id: &UserId, suspended_at: Option<Millis>, locked_at: Option<Millis>) {
    const PUT: &str = "UPDATE accounts SET suspended_at = $2, locked_at = $3 WHERE user_id = $1";
    write.run(PUT, args![user_id.as_str(), suspended_at, locked_at]);
}

/// Reads accounts as administrators see them.
pub struct Custody<'a>(&'a Store);

impl Store {
    /// Reads accounts as administrators see them.
    pub fn custody(&self) -> Custody<'_> {
        Custody(self)
    }
}

const COLUMNS: &str = "
    SELECT a.user_id, p.value, a.created_at, a.admin_since, r.role, a.deactivated_at, a.suspended_at, a.locked_at,
        (SELECT MAX(d.last_seen_at) FROM devices d WHERE d.user_id = a.user_id)
    FROM accounts a
    LEFT JOIN roles r ON r.user_id = a.user_id
    LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'displayname'";

impl Custody<'_> {
    /// One account, a closed one too.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<CustodyRow>, Error> {
        let sql = format!("{COLUMNS} WHERE a.user_id = $1");
        self.0.query(sql, args![user_id.as_str()]).await?.first().map(read).transpose()
    }

    /// Up to `limit` accounts by user id, those after `after`.
    pub async fn search(
        &self,
        search: CustodySearch<'_>,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<CustodyRow>, Error> {
        let sql = format!(
            "{COLUMNS}
            WHERE a.user_id > $1
                AND ($2 = '' OR a.user_id LIKE $2 ESCAPE '!' OR LOWER(p.value) LIKE $2 ESCAPE '!')
                AND ($3 = '' OR $3 = CASE
                    WHEN a.deactivated_at IS NOT NULL THEN 'deactivated'
                    WHEN a.locked_at IS NOT NULL THEN 'locked'
                    WHEN a.suspended_at IS NOT NULL THEN 'suspended'
                    ELSE 'active'
                END)
                AND ($4 = '' OR $4 = CASE WHEN a.admin_since IS NOT NULL THEN 'admin' ELSE COALESCE(r.role, 'user') END)
            ORDER BY a.user_id
            LIMIT $5"
        );
        let after = after.map_or("", UserId::as_str);
        let args = args![after, pattern(search.term), search.state, search.role, i64::from(limit)];
        self.0.query(sql, args).await?.iter().map(read).collect()
    }

    /// Whose accounts are suspended, `limit` at most.
    pub async fn suspended(&self, limit: u32) -> Result<Vec<OwnedUserId>, Error> {
        const LIST: &str = "SELECT user_id FROM accounts WHERE suspended_at IS NOT NULL LIMIT $1";
        self.0.query(LIST, args![i64::from(limit)]).await?.iter().map(|row| row.parse(0)).collect()
    }

    /// In how many rooms a user is.
    pub async fn rooms_of(&self, user_id: &UserId) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM memberships WHERE user_id = $1 AND membership = 'join'";
        self.0.query(COUNT, args![user_id.as_str()]).await?.first().map_or(Ok(0), |row| row.int(0))
    }
}

/// What `LIKE` finds wherever `term` stands, in small letters. Empty: nothing is looked for.
fn pattern(term: &str) -> String {
    if term.is_empty() {
        return String::new();
    }
    let mut pattern = String::from("%");
    for letter in term.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

fn read(row: &Row) -> Result<CustodyRow, Error> {
    Ok(CustodyRow {
        user_id: row.parse(0)?,
        display_name: row.opt_text(1)?,
        created_at: row.int(2)?,
        admin_since: row.opt_int(3)?,
        role: row.opt_text(4)?,
        deactivated_at: row.opt_int(5)?,
        suspended_at: row.opt_int(6)?,
        locked_at: row.opt_int(7)?,
        last_seen_at: row.opt_int(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        accounts::{AccountRow, deactivate_account, insert_account},
        profiles::put_profile_field,
        roles,
        testing::on_each_engine,
    };

    fn named(name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:a.test")).expect("it is a user id")
    }

    #[tokio::test]
    async fn accounts_are_found_by_what_they_are_called_and_how_they_are() {
        on_each_engine(async |store| {
            let mut write = Write::new();
            for name in ["alice", "bob", "carol_x", "dave"] {
                let user_id = named(name);
                let admin_since = (name == "dave").then_some(1);
                let password_hash = None;
                let row = AccountRow { user_id, password_hash, created_at: 1, admin_since, deactivated_at: None };
                insert_account(&mut write, &row);
            }
            put_profile_field(&mut write, &named("bob"), "displayname", "\"Robert A_B\"");
            roles::put(&mut write, &named("bob"), "auditor");
            put(&mut write, &named("alice"), Some(5), None);
            put(&mut write, &named("carol_x"), Some(5), Some(6));
            store.commit(write).await?;
            let mut write = Write::new();
            deactivate_account(&mut write, &named("alice"), 7, None);
            store.commit(write).await?;

            let found = async |search: CustodySearch<'_>| {
                let rows = store.custody().search(search, None, 10).await.expect("it is read");
                rows.iter().map(|row| row.user_id.localpart().to_owned()).collect::<Vec<_>>()
            };
            let all = CustodySearch::default();
            assert_eq!(found(all).await, ["alice", "bob", "carol_x", "dave"]);
            assert_eq!(found(CustodySearch { term: "ROBERT", ..all }).await, ["bob"]);
            assert_eq!(found(CustodySearch { term: "_", ..all }).await, ["bob", "carol_x"]);
            assert_eq!(found(CustodySearch { state: "active", ..all }).await, ["bob", "dave"]);
            assert_eq!(found(CustodySearch { state: "locked", ..all }).await, ["carol_x"]);
            assert_eq!(found(CustodySearch { state: "deactivated", ..all }).await, ["alice"]);
            assert_eq!(found(CustodySearch { role: "admin", ..all }).await, ["dave"]);
            assert_eq!(found(CustodySearch { role: "auditor", ..all }).await, ["bob"]);
            let after = store.custody().search(all, Some(&named("bob")), 1).await?;
            assert_eq!(after[0].user_id, named("carol_x"));
            assert_eq!(store.custody().suspended(10).await?.len(), 2);
            assert_eq!(store.custody().rooms_of(&named("bob")).await?, 0);
            Ok::<_, Error>(())
        })
        .await;
    }
}
