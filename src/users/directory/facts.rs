//! What people are in the organisation, and what it is made of.

use std::collections::HashMap;

use ruma::{ServerName, UserId};
use serde::{Deserialize, Serialize};
use store::{
    Write,
    directory::{self as rows, FactsRow, UnitRow},
};
use tracing::info;

use super::{DirectoryError, is_text, is_unit_id};
use crate::Users;

/// How many units an organisation has at most.
const MAX_UNITS: u32 = 5_000;

/// What somebody is in the organisation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What the person does: `Head of Sales`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub department: Option<String>,
    /// Where: the id of a unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A part of the organisation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// As programs call it.
    pub unit_id: String,
    /// As people read it.
    pub name: String,
    /// The unit that it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl From<UnitRow> for Unit {
    fn from(row: UnitRow) -> Self {
        let UnitRow { unit_id, name, parent } = row;
        Self { unit_id, name, parent }
    }
}

impl Users {
    /// Sets what somebody of this server is in the organisation, on behalf of `author`; nothing: nothing is known of that.
    pub async fn set_facts(&self, author: &UserId, user_id: &UserId, facts: Facts) -> Result<(), DirectoryError> {
        self.check_is_here(user_id).await?;
        let Facts { title, department, unit } = facts;
        for (field, text) in [("title", &title), ("department", &department)] {
            if text.as_deref().is_some_and(|text| !is_text(text)) {
                return Err(DirectoryError::Text(field));
            }
        }
        if let Some(unit) = &unit {
            self.unit(unit).await?;
        }
        let row = FactsRow { title, department, unit_id: unit };
        let mut write = Write::new();
        match row == FactsRow::default() {
            true => rows::remove_facts(&mut write, user_id),
            false => rows::put_facts(&mut write, user_id, &row),
        }
        self.store.commit(write).await?;
        info!(user.id = %user_id, %author, "{author} set what {user_id} is in the organisation");
        Ok(())
    }

    /// What somebody of this server is in the organisation.
    pub async fn facts(&self, user_id: &UserId) -> Result<Facts, DirectoryError> {
        self.check_is_here(user_id).await?;
        let mut found = self.store.directory().facts(&[user_id]).await?;
        Ok(found.remove(user_id).map(Facts::from).unwrap_or_default())
    }

    /// Adds a unit, or changes it, on behalf of `author`.
    pub async fn put_unit(&self, author: &UserId, unit: Unit) -> Result<Unit, DirectoryError> {
        if !is_unit_id(&unit.unit_id) {
            return Err(DirectoryError::UnitId(unit.unit_id.chars().take(100).collect()));
        }
        if !is_text(&unit.name) {
            return Err(DirectoryError::Text("name"));
        }
        let known = self.own_units().await?;
        if known.len() >= MAX_UNITS as usize && !known.contains_key(&unit.unit_id) {
            return Err(DirectoryError::TooManyUnits(MAX_UNITS));
        }
        let mut above = unit.parent.as_ref();
        // A circle that is there already has no more steps than there are units.
        for _ in 0..=known.len() {
            let Some(id) = above else { break };
            if *id == unit.unit_id {
                return Err(DirectoryError::Circle(unit.unit_id));
            }
            above = known.get(id).ok_or_else(|| DirectoryError::NoUnit(id.clone()))?.parent.as_ref();
        }
        let row = UnitRow { unit_id: unit.unit_id.clone(), name: unit.name.clone(), parent: unit.parent.clone() };
        let mut write = Write::new();
        rows::put_unit(&mut write, &row);
        self.store.commit(write).await?;
        info!(unit = unit.unit_id, %author, "{author} set a unit of the organisation");
        Ok(unit)
    }

    /// Removes a unit that nobody is in, on behalf of `author`.
    pub async fn remove_unit(&self, author: &UserId, unit_id: &str) -> Result<(), DirectoryError> {
        self.unit(unit_id).await?;
        if self.store.directory().is_unit_in_use(unit_id).await? {
            return Err(DirectoryError::InUse(unit_id.to_owned()));
        }
        let mut write = Write::new();
        rows::remove_unit(&mut write, unit_id);
        self.store.commit(write).await?;
        info!(unit = unit_id, %author, "{author} removed a unit of the organisation");
        Ok(())
    }

    /// The units of this server's organisation, or of that of a full peer as it told, by id; 5,000 at most.
    pub async fn units(&self, server: Option<&ServerName>) -> Result<Vec<Unit>, DirectoryError> {
        let rows = match server.filter(|server| *server != self.server_name) {
            None => self.store.directory().units(MAX_UNITS).await?,
            Some(server) if self.peers.trust().is_cascade_peer(server) => {
                self.store.cascade().units(server, MAX_UNITS).await?
            }
            Some(_) => Vec::new(),
        };
        Ok(rows.into_iter().map(Unit::from).collect())
    }

    async fn own_units(&self) -> Result<HashMap<String, UnitRow>, store::Error> {
        let rows = self.store.directory().units(MAX_UNITS).await?;
        Ok(rows.into_iter().map(|unit| (unit.unit_id.clone(), unit)).collect())
    }

    async fn unit(&self, unit_id: &str) -> Result<UnitRow, DirectoryError> {
        let found = self.own_units().await?.remove(unit_id);
        found.ok_or_else(|| DirectoryError::NoUnit(unit_id.chars().take(100).collect()))
    }

    pub(super) async fn check_is_here(&self, user_id: &UserId) -> Result<(), DirectoryError> {
        let is_here = self.is_ours(user_id) && !self.is_guest(user_id) && self.is_active(user_id).await?;
        if is_here { Ok(()) } else { Err(DirectoryError::NoUser) }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::with_users;

    fn unit(unit_id: &str, parent: Option<&str>) -> Unit {
        Unit { unit_id: unit_id.into(), name: unit_id.to_uppercase(), parent: parent.map(str::to_owned) }
    }

    #[tokio::test]
    async fn units_are_a_tree_and_people_are_in_them() {
        with_users(async |users, _| {
            let admin = user_id!("@admin:a.test");
            users.register_for_tests("alice").await;
            let alice = user_id!("@alice:a.test");
            users.put_unit(admin, unit("board", None)).await.expect("it is right");
            users.put_unit(admin, unit("sales", Some("board"))).await.expect("it is right");
            let put = async |unit| users.put_unit(admin, unit).await;
            assert!(matches!(put(unit("board", Some("sales"))).await, Err(DirectoryError::Circle(_))));
            assert!(matches!(put(unit("x", Some("nowhere"))).await, Err(DirectoryError::NoUnit(_))));
            assert!(matches!(put(unit("No", None)).await, Err(DirectoryError::UnitId(_))));
            let remove = async |unit| users.remove_unit(admin, unit).await;
            assert!(matches!(remove("board").await, Err(DirectoryError::InUse(_))));
            assert_eq!(users.units(None).await.expect("they can be read").len(), 2);

            let facts = |unit: &str| Facts { title: Some("CEO".into()), department: None, unit: Some(unit.into()) };
            let set = async |user_id, facts| users.set_facts(admin, user_id, facts).await;
            set(alice, facts("sales")).await.expect("she is there");
            assert_eq!(users.facts(alice).await.expect("she is there"), facts("sales"));
            assert!(matches!(set(alice, facts("x")).await, Err(DirectoryError::NoUnit(_))));
            assert!(matches!(set(user_id!("@bob:a.test"), Facts::default()).await, Err(DirectoryError::NoUser)));
            let long = Facts { title: Some("x".repeat(101)), ..Facts::default() };
            assert!(matches!(set(alice, long).await, Err(DirectoryError::Text("title"))));
            assert!(matches!(remove("sales").await, Err(DirectoryError::InUse(_))));
            set(alice, Facts::default()).await.expect("she is there");
            remove("sales").await.expect("nobody is in it");
        })
        .await;
    }
}
