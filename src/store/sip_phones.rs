//! SIP phones: those of this server's people, and those that full peers told of theirs.

use model::Millis;
use ruma::{OwnedServerName, OwnedUserId, UserId};

use crate::{Arg, Error, Row, Store, Write, args, directory, places};

/// A phone of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// What one dials.
    pub number: String,
    /// `sip:…`.
    pub uri: Option<String>,
    /// What it is, in one word.
    pub kind: String,
    /// For people.
    pub label: Option<String>,
}

/// A phone that was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRow {
    /// The phone.
    pub phone: PhoneRow,
    /// What its user is called: of this server's people as JSON.
    pub display_name: Option<String>,
    /// When the user's server last said so; `None`: it is this one.
    pub told_at: Option<Millis>,
}

/// Gives somebody a phone, or changes it.
pub fn put(write: &mut Write, phone: &PhoneRow) {
    const PUT: &str = "
        INSERT INTO sip_phones (user_id, number, uri, kind, label)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (user_id, number) DO UPDATE SET uri = excluded.uri, kind = excluded.kind, label = excluded.label";
    let PhoneRow { user_id, number, uri, kind, label } = phone;
    write.run(PUT, args![user_id.as_str(), number.as_str(), uri.as_deref(), kind.as_str(), label.as_deref()]);
    directory::touch(write, user_id);
}

/// Takes a phone away.
pub fn remove(write: &mut Write, user_id: &UserId, number: &str) {
    write.run("DELETE FROM sip_phones WHERE user_id = $1 AND number = $2", args![user_id.as_str(), number]);
    directory::touch(write, user_id);
}

/// Takes all phones of somebody away.
pub(crate) fn remove_all(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM sip_phones WHERE user_id = $1", args![user_id.as_str()]);
}

/// Which phones are looked for. What isn't set doesn't matter.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Whose.
    pub user_id: Option<OwnedUserId>,
    /// With which number.
    pub number: Option<String>,
    /// Those after this one, by user id and number.
    pub after: Option<(String, String)>,
    /// How many at most.
    pub limit: u32,
}

impl Wanted {
    /// What the columns `user_id` and `number` of table `t` have to be.
    fn condition(&self) -> (String, Vec<Arg>) {
        let (user_id, number) = self.after.clone().unwrap_or_default();
        let (mut sql, mut args) = ("(t.user_id, t.number) > ($1, $2)".to_owned(), args![user_id, number]);
        let given =
            [("user_id", self.user_id.as_ref().map(|user_id| user_id.as_str())), ("number", self.number.as_deref())];
        for (column, value) in given {
            if let Some(value) = value {
                args.push(value.into());
                sql.push_str(&format!(" AND t.{column} = ${}", args.len()));
            }
        }
        (sql, args)
    }
}

/// Reads phones.
pub struct SipPhones<'a>(&'a Store);

impl Store {
    /// Reads SIP phones.
    pub fn sip_phones(&self) -> SipPhones<'_> {
        SipPhones(self)
    }
}

impl SipPhones<'_> {
    /// Phones of this server's people, by user id and number; `for_peers`: only of those of whom peers are told.
    pub async fn find(&self, wanted: &Wanted, for_peers: bool) -> Result<Vec<FoundRow>, Error> {
        let (condition, mut args) = wanted.condition();
        let told = match for_peers {
            true => "AND EXISTS (SELECT 1 FROM directory_entries d WHERE d.entry = t.user_id AND d.hidden IS NULL)",
            false => "",
        };
        args.push(i64::from(wanted.limit).into());
        let sql = format!(
            "SELECT t.user_id, t.number, t.uri, t.kind, t.label, n.value
             FROM sip_phones t
             LEFT JOIN profiles n ON n.user_id = t.user_id AND n.field = 'displayname'
             WHERE {condition} {told}
             ORDER BY t.user_id, t.number
             LIMIT ${}",
            args.len()
        );
        let rows = self.0.query(sql, args).await?;
        rows.iter()
            .map(|row| Ok(FoundRow { phone: phone(row)?, display_name: row.opt_text(5)?, told_at: None }))
            .collect()
    }

    /// Phones of people of those of `servers` that have told of all their people, by user id and number.
    pub async fn find_elsewhere(&self, wanted: &Wanted, servers: &[OwnedServerName]) -> Result<Vec<FoundRow>, Error> {
        if servers.is_empty() {
            return Ok(Vec::new());
        }
        let (condition, mut args) = wanted.condition();
        let of_servers = places(args.len() + 1, servers.len());
        args.extend(servers.iter().map(|server| Arg::from(server.as_str())));
        args.push(i64::from(wanted.limit).into());
        let sql = format!(
            "SELECT t.user_id, t.number, t.uri, t.kind, t.label, u.display_name, p.told_at
             FROM cascade_phones t
             JOIN cascade_people u ON u.user_id = t.user_id
             JOIN cascade_peers p ON p.server = t.server AND p.whole > 0
             WHERE {condition} AND t.server IN ({of_servers})
             ORDER BY t.user_id, t.number
             LIMIT ${}",
            args.len()
        );
        let rows = self.0.query(sql, args).await?;
        rows.iter()
            .map(|row| {
                let told_at = row.opt_int(6)?.unwrap_or_default();
                Ok(FoundRow { phone: phone(row)?, display_name: row.opt_text(5)?, told_at: Some(told_at) })
            })
            .collect()
    }

    /// All phones of some people of this server, by user id and number.
    pub async fn of(&self, user_ids: &[&UserId]) -> Result<Vec<PhoneRow>, Error> {
        self.all_of("sip_phones", user_ids).await
    }

    /// All phones of some people of peers, as their servers told, by user id and number.
    pub async fn of_elsewhere(&self, user_ids: &[&UserId]) -> Result<Vec<PhoneRow>, Error> {
        self.all_of("cascade_phones", user_ids).await
    }

    async fn all_of(&self, table: &'static str, user_ids: &[&UserId]) -> Result<Vec<PhoneRow>, Error> {
        if user_ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT user_id, number, uri, kind, label FROM {table} WHERE user_id IN ({}) ORDER BY user_id, number",
            places(1, user_ids.len())
        );
        let args = user_ids.iter().map(|user_id| Arg::from(user_id.as_str())).collect();
        self.0.query(sql, args).await?.iter().map(phone).collect()
    }
}

fn phone(row: &Row) -> Result<PhoneRow, Error> {
    Ok(PhoneRow {
        user_id: row.parse(0)?,
        number: row.text(1)?,
        uri: row.opt_text(2)?,
        kind: row.text(3)?,
        label: row.opt_text(4)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{
        accounts::{AccountRow, deactivate_account, insert_account},
        testing::on_each_engine,
        user_directory::set_listed,
    };

    #[tokio::test]
    async fn phones_are_found_by_user_and_number_and_page_by_page() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let row = |user_id: &UserId, number: &str| PhoneRow {
                user_id: user_id.to_owned(),
                number: number.into(),
                uri: Some(format!("sip:{number}@a.test")),
                kind: "desk".into(),
                label: None,
            };
            let mut write = Write::new();
            for user_id in [alice, bob] {
                let user_id = user_id.to_owned();
                let account =
                    AccountRow { user_id, password_hash: None, created_at: 1, admin_since: None, deactivated_at: None };
                insert_account(&mut write, &account);
            }
            for phone in [row(alice, "1001"), row(alice, "1002"), row(bob, "1001")] {
                put(&mut write, &phone);
            }
            store.commit(write).await?;
            let numbers = async |wanted: Wanted, for_peers| {
                let found = store.sip_phones().find(&Wanted { limit: 9, ..wanted }, for_peers).await?;
                let words =
                    found.into_iter().map(|row| format!("{} {}", row.phone.user_id.localpart(), row.phone.number));
                Ok::<_, Error>(words.collect::<Vec<_>>())
            };
            let all = ["alice 1001", "alice 1002", "bob 1001"];
            assert_eq!(numbers(Wanted::default(), true).await?, all);
            let of_bob = Wanted { user_id: Some(bob.to_owned()), ..Wanted::default() };
            assert_eq!(numbers(of_bob, false).await?, ["bob 1001"]);
            let number = Wanted { number: Some("1001".into()), ..Wanted::default() };
            assert_eq!(numbers(number, false).await?, ["alice 1001", "bob 1001"]);
            let after = Wanted { after: Some((alice.to_string(), "1001".into())), ..Wanted::default() };
            assert_eq!(numbers(after, false).await?, &all[1..]);
            assert_eq!(store.sip_phones().of(&[alice]).await?, [row(alice, "1001"), row(alice, "1002")]);

            let mut write = Write::new();
            set_listed(&mut write, alice, false, 1);
            remove(&mut write, alice, "1002");
            store.commit(write).await?;
            assert_eq!(numbers(Wanted::default(), true).await?, ["bob 1001"], "peers aren't told of Alice");
            assert_eq!(numbers(Wanted::default(), false).await?, ["alice 1001", "bob 1001"]);
            let mut write = Write::new();
            deactivate_account(&mut write, bob, 5, None);
            store.commit(write).await?;
            assert_eq!(numbers(Wanted::default(), false).await?, ["alice 1001"]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
