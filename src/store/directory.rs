//! The directory of this deployment, as full peers are told of it: people, what they are in the organisation, and its units.
//!
//! Each person and each unit has one place in the order of changes, which is the position at which what is told of it changed
//! last. So one walk through that order, from any place on, is the whole directory or what has changed in it. What is no longer
//! told keeps its place, hidden, and with it the position since when it is so: who began to walk after that never heard of it.

use std::collections::HashMap;

use model::Position;
use ruma::{OwnedUserId, UserId};

use crate::{Arg, Error, Row, Store, Write, args, places};

/// Before the name of a unit where a user id could stand as well.
const UNIT: &str = "unit:";

// === Writing ===

/// What is told of a user has changed. Those whose localpart begins with an underscore are never told of: they stand for others.
pub(crate) fn touch(write: &mut Write, user_id: &UserId) {
    if !user_id.localpart().starts_with('_') {
        moved(write, user_id.to_string());
    }
}

/// A user is no longer told of.
pub(crate) fn hide(write: &mut Write, user_id: &UserId) {
    if !user_id.localpart().starts_with('_') {
        hidden(write, user_id.to_string());
    }
}

/// A user is told of again.
pub(crate) fn show(write: &mut Write, user_id: &UserId) {
    if !user_id.localpart().starts_with('_') {
        shown(write, user_id.to_string());
    }
}

fn moved(write: &mut Write, entry: String) {
    const MOVE: &str = "
        INSERT INTO directory_entries (entry, position, hidden)
        VALUES ($1, $2, NULL)
        ON CONFLICT (entry) DO UPDATE SET position = excluded.position
        WHERE directory_entries.hidden IS NULL";
    let position = Arg::Position(write.position());
    write.run(MOVE, vec![entry.into(), position]);
}

fn hidden(write: &mut Write, entry: String) {
    const HIDE: &str = "
        INSERT INTO directory_entries (entry, position, hidden)
        VALUES ($1, $2, $3)
        ON CONFLICT (entry) DO UPDATE SET position = excluded.position, hidden = excluded.hidden
        WHERE directory_entries.hidden IS NULL";
    let position = Arg::Position(write.position());
    write.run(HIDE, vec![entry.into(), position.clone(), position]);
}

fn shown(write: &mut Write, entry: String) {
    const SHOW: &str = "
        INSERT INTO directory_entries (entry, position, hidden)
        VALUES ($1, $2, NULL)
        ON CONFLICT (entry) DO UPDATE SET position = excluded.position, hidden = NULL";
    let position = Arg::Position(write.position());
    write.run(SHOW, vec![entry.into(), position]);
}

/// What somebody is in the organisation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactsRow {
    /// What the person does.
    pub title: Option<String>,
    /// Where, in words.
    pub department: Option<String>,
    /// Where, as the units have it.
    pub unit_id: Option<String>,
}

/// Sets what somebody is in the organisation.
pub fn put_facts(write: &mut Write, user_id: &UserId, facts: &FactsRow) {
    const PUT: &str = "
        INSERT INTO directory_people (user_id, title, department, unit_id)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (user_id) DO UPDATE SET
            title = excluded.title,
            department = excluded.department,
            unit_id = excluded.unit_id";
    let FactsRow { title, department, unit_id } = facts;
    write.run(PUT, args![user_id.as_str(), title.as_deref(), department.as_deref(), unit_id.as_deref()]);
    touch(write, user_id);
}

/// Nothing is known of what somebody is in the organisation.
pub fn remove_facts(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM directory_people WHERE user_id = $1", args![user_id.as_str()]);
    touch(write, user_id);
}

/// A part of the organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRow {
    /// As programs call it.
    pub unit_id: String,
    /// As people read it.
    pub name: String,
    /// The unit that it is a part of.
    pub parent: Option<String>,
}

/// Adds a unit, or changes it.
pub fn put_unit(write: &mut Write, unit: &UnitRow) {
    const PUT: &str = "
        INSERT INTO directory_units (unit_id, name, parent)
        VALUES ($1, $2, $3)
        ON CONFLICT (unit_id) DO UPDATE SET name = excluded.name, parent = excluded.parent";
    write.run(PUT, args![unit.unit_id.as_str(), unit.name.as_str(), unit.parent.as_deref()]);
    shown(write, format!("{UNIT}{}", unit.unit_id));
}

/// Removes a unit.
pub fn remove_unit(write: &mut Write, unit_id: &str) {
    write.run("DELETE FROM directory_units WHERE unit_id = $1", args![unit_id]);
    hidden(write, format!("{UNIT}{unit_id}"));
}

// === Reading ===

/// A place in the order of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// When the entry changed.
    pub position: Position,
    /// Which entry.
    pub entry: String,
}

impl Place {
    /// Before everything.
    pub fn beginning() -> Self {
        Self { position: Position(-1), entry: String::new() }
    }
}

/// What is told of an entry now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Somebody of this server.
    Person(PersonRow),
    /// A part of the organisation.
    Unit(UnitRow),
    /// Somebody is no longer told of.
    PersonGone(OwnedUserId),
    /// There is no such unit any more.
    UnitGone(String),
}

/// Somebody of this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonRow {
    /// Who.
    pub user_id: OwnedUserId,
    /// Whether the account is open.
    pub is_active: bool,
    /// The profile's `displayname`, as JSON.
    pub display_name: Option<String>,
    /// The profile's `avatar_url`, as JSON.
    pub avatar_url: Option<String>,
    /// What the person is in the organisation.
    pub facts: FactsRow,
}

/// Reads the directory.
pub struct Directory<'a>(&'a Store);

impl Store {
    /// Reads the directory of this deployment.
    pub fn directory(&self) -> Directory<'_> {
        Directory(self)
    }
}

impl Directory<'_> {
    /// Up to `limit` entries after `after`, in the order of their changes, each with its place. Of what was hidden at `began` or
    /// before, nothing.
    pub async fn entries(&self, after: &Place, began: Position, limit: u32) -> Result<Vec<(Place, Told)>, Error> {
        const ENTRIES: &str = "
            SELECT d.entry, d.position, d.hidden, a.deactivated_at, n.value, p.value, o.title, o.department, o.unit_id,
                u.name, u.parent
            FROM directory_entries d
            LEFT JOIN accounts a ON a.user_id = d.entry
            LEFT JOIN profiles n ON n.user_id = d.entry AND n.field = 'displayname'
            LEFT JOIN profiles p ON p.user_id = d.entry AND p.field = 'avatar_url'
            LEFT JOIN directory_people o ON o.user_id = d.entry
            LEFT JOIN directory_units u ON d.entry LIKE 'unit:%' AND u.unit_id = SUBSTR(d.entry, 6)
            WHERE (d.position, d.entry) > ($1, $2) AND (d.hidden IS NULL OR d.hidden > $3)
            ORDER BY d.position, d.entry
            LIMIT $4";
        let args = args![after.position, after.entry.as_str(), began, i64::from(limit)];
        self.0.query(ENTRIES, args).await?.iter().map(entry).collect()
    }

    /// What some people are in the organisation; those of whom nothing is known are left out.
    pub async fn facts(&self, user_ids: &[&UserId]) -> Result<HashMap<OwnedUserId, FactsRow>, Error> {
        if user_ids.is_empty() {
            return Ok(HashMap::new());
        }
        let sql = format!(
            "SELECT user_id, title, department, unit_id FROM directory_people WHERE user_id IN ({})",
            places(1, user_ids.len())
        );
        let args = user_ids.iter().map(|user_id| Arg::from(user_id.as_str())).collect();
        let rows = self.0.query(sql, args).await?;
        rows.iter().map(|row| Ok((row.parse(0)?, facts_at(row, 1)?))).collect()
    }

    /// Up to `limit` units by id.
    pub async fn units(&self, limit: u32) -> Result<Vec<UnitRow>, Error> {
        const UNITS: &str = "SELECT unit_id, name, parent FROM directory_units ORDER BY unit_id LIMIT $1";
        self.0.query(UNITS, args![i64::from(limit)]).await?.iter().map(unit).collect()
    }

    /// Whether anybody, or another unit, is in a unit.
    pub async fn is_unit_in_use(&self, unit_id: &str) -> Result<bool, Error> {
        const USERS: &str = "
            SELECT 1 FROM directory_people WHERE unit_id = $1
            UNION ALL
            SELECT 1 FROM directory_units WHERE parent = $1
            LIMIT 1";
        Ok(!self.0.query(USERS, args![unit_id]).await?.is_empty())
    }
}

fn entry(row: &Row) -> Result<(Place, Told), Error> {
    let place = Place { entry: row.text(0)?, position: Position(row.int(1)?) };
    let is_hidden = row.opt_int(2)?.is_some();
    let told = match place.entry.strip_prefix(UNIT) {
        Some(unit_id) => {
            let unit_id = unit_id.to_owned();
            match row.opt_text(9)?.filter(|_| !is_hidden) {
                Some(name) => Told::Unit(UnitRow { unit_id, name, parent: row.opt_text(10)? }),
                None => Told::UnitGone(unit_id),
            }
        }
        None if is_hidden => Told::PersonGone(row.parse(0)?),
        None => Told::Person(PersonRow {
            user_id: row.parse(0)?,
            is_active: row.opt_int(3)?.is_none(),
            display_name: row.opt_text(4)?,
            avatar_url: row.opt_text(5)?,
            facts: facts_at(row, 6)?,
        }),
    };
    Ok((place, told))
}

/// Title, department and unit, in three columns from `first` on.
pub(crate) fn facts_at(row: &Row, first: usize) -> Result<FactsRow, Error> {
    let (title, department) = (row.opt_text(first)?, row.opt_text(first + 1)?);
    Ok(FactsRow { title, department, unit_id: row.opt_text(first + 2)? })
}

/// Id, name and parent, in the first three columns.
pub(crate) fn unit(row: &Row) -> Result<UnitRow, Error> {
    Ok(UnitRow { unit_id: row.text(0)?, name: row.text(1)?, parent: row.opt_text(2)? })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{
        accounts::{AccountRow, deactivate_account, insert_account},
        profiles::put_profile_field,
        testing::{on_each_engine, on_each_engine_of_old},
        user_directory::set_listed,
    };

    fn account(user_id: &UserId) -> AccountRow {
        let user_id = user_id.to_owned();
        AccountRow { user_id, password_hash: None, created_at: 1, admin_since: None, deactivated_at: None }
    }

    async fn told(store: &Store, after: &Place, began: Position) -> Result<(Vec<String>, Place), Error> {
        let entries = store.directory().entries(after, began, 100).await?;
        let last = entries.last().map_or(after, |(place, _)| place).clone();
        let words = entries.into_iter().map(|(_, told)| match told {
            Told::Person(person) if person.is_active => person.user_id.localpart().to_owned(),
            Told::Person(person) => format!("{} has left", person.user_id.localpart()),
            Told::Unit(unit) => unit.name,
            Told::PersonGone(user_id) => format!("-{}", user_id.localpart()),
            Told::UnitGone(unit_id) => format!("-{unit_id}"),
        });
        Ok((words.collect(), last))
    }

    async fn commit(store: &Store, add: impl FnOnce(&mut Write)) -> Result<(), Error> {
        let mut write = Write::new();
        add(&mut write);
        store.commit(write).await.map(drop)
    }

    #[tokio::test]
    async fn who_walks_on_is_told_what_changed_and_who_begins_what_there_is() {
        on_each_engine(async |store| {
            let (alice, bob, carol) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"), user_id!("@carol:a.test"));
            let sales = UnitRow { unit_id: "sales".into(), name: "Sales".into(), parent: None };
            commit(&store, |write| {
                for user_id in [alice, bob, carol, user_id!("@_notices:a.test")] {
                    insert_account(write, &account(user_id));
                }
                put_unit(write, &sales);
                set_listed(write, carol, false, 1);
            })
            .await?;
            let began = store.visible_position().await?;
            let (all, place) = told(&store, &Place::beginning(), began).await?;
            assert_eq!(all, ["alice", "bob", "Sales"], "nobody is told that there is a Carol");

            commit(&store, |write| put_profile_field(write, alice, "displayname", r#""Alice""#)).await?;
            commit(&store, |write| put_profile_field(write, alice, "m.tz", r#""UTC""#)).await?;
            commit(&store, |write| put_profile_field(write, carol, "displayname", r#""Carol""#)).await?;
            let (news, place) = told(&store, &place, began).await?;
            assert_eq!(news, ["alice"]);
            commit(&store, |write| set_listed(write, alice, false, 1)).await?;
            commit(&store, |write| deactivate_account(write, bob, 5, None)).await?;
            commit(&store, |write| remove_unit(write, "sales")).await?;
            commit(&store, |write| set_listed(write, carol, true, 1)).await?;
            let (news, place) = told(&store, &place, began).await?;
            assert_eq!(news, ["-alice", "bob has left", "-sales", "carol"]);
            let later = store.visible_position().await?;
            let (all, _) = told(&store, &Place::beginning(), later).await?;
            assert_eq!(all, ["bob has left", "carol"]);
            // Who asks to be forgotten is not told of as one who has left.
            commit(&store, |write| deactivate_account(write, carol, 5, Some(5))).await?;
            let (news, place) = told(&store, &place, began).await?;
            assert_eq!(news, ["-carol"]);
            assert!(told(&store, &place, began).await?.0.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_people_are_goes_with_their_accounts() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let facts = FactsRow { title: Some("CEO".into()), department: None, unit_id: Some("board".into()) };
            commit(&store, |write| {
                insert_account(write, &account(alice));
                put_facts(write, alice, &facts);
            })
            .await?;
            assert_eq!(store.directory().facts(&[alice]).await?.get(alice), Some(&facts));
            assert!(store.directory().is_unit_in_use("board").await?);
            commit(&store, |write| deactivate_account(write, alice, 5, None)).await?;
            assert!(store.directory().facts(&[alice]).await?.is_empty());
            assert!(!store.directory().is_unit_in_use("board").await?);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn those_who_were_there_before_there_was_a_directory_are_in_it() {
        on_each_engine_of_old(async |store| {
            let began = store.visible_position().await?;
            let (all, place) = told(&store, &Place::beginning(), began).await?;
            assert_eq!(all, ["alice", "bob"]);
            assert_eq!(place.position, Position(0));
            commit(&store, |write| put_profile_field(write, user_id!("@alice:a.test"), "avatar_url", "null")).await?;
            assert_eq!(told(&store, &place, began).await?.0, ["alice"]);
            Ok::<_, Error>(())
        })
        .await;
    }
}
