//! Listed servers that show other keys than their lists name: as with those that an admin has pinned, a change that a listed key
//! has signed is followed, and any other is an alarm.

use std::collections::BTreeMap;

use model::peer::normal_name;
use ruma::{OwnedServerName, ServerName};
use serde_json::json;
use store::{
    Write,
    federation_lists::{self as rows, ListedKeysRow},
};
use tracing::info;

use super::{ListError, Lists, TRIES};
use crate::trust::{Act, Author, Trust};

impl Trust {
    /// A listed server signs with keys that its list doesn't name: nothing of it is believed any more.
    pub(crate) async fn alarm_listed(&self, server: &ServerName, what: &str) -> Result<(), store::Error> {
        let author = Author { actor: "key pinning".to_owned(), reason: format!("{server}: {what}") };
        self.note_shown(server, "list.key_alarm", &author, |row| match row.alarm {
            Some(_) => false,
            None => {
                row.alarm = Some(what.to_owned());
                true
            }
        })
        .await
    }

    /// A listed server has changed its keys, and a listed one has signed that.
    pub(crate) async fn move_listed(
        &self,
        server: &ServerName,
        keys: BTreeMap<String, String>,
    ) -> Result<(), store::Error> {
        let author =
            Author { actor: "key pinning".to_owned(), reason: "a listed key has signed the new ones".to_owned() };
        let moved = serde_json::to_string(&keys).expect("keys are JSON");
        self.note_shown(server, "list.keys_rotated", &author, |row| {
            row.moved = Some(moved.clone());
            true
        })
        .await
    }

    /// Changes what is noted of a listed server's keys, unless `change` says that there is nothing to change.
    async fn note_shown(
        &self,
        server: &ServerName,
        action: &str,
        author: &Author,
        change: impl Fn(&mut ListedKeysRow) -> bool,
    ) -> Result<(), store::Error> {
        let Ok(server) = OwnedServerName::try_from(&*normal_name(server)) else { return Ok(()) };
        for _ in 0..TRIES {
            let turn = self.turn().await?;
            let listed = serde_json::to_string(&self.listed_keys(&server)).expect("keys are JSON");
            let noted = self.store().federation_lists().listed_keys().await?;
            // What was noted while the list named other keys counts for nothing.
            let noted = noted.into_iter().find(|row| row.server == server && row.listed == listed);
            let mut row =
                noted.unwrap_or_else(|| ListedKeysRow { server: server.clone(), listed, moved: None, alarm: None });
            if !change(&mut row) {
                return Ok(());
            }
            let mut write = Write::new();
            rows::put_listed_keys(&mut write, &row);
            let after = Some(json!({ "moved": row.moved, "alarm": row.alarm }).to_string());
            let act = Act { action, subject: server.as_str(), author, before: None, after };
            if self.record(turn, write, act).await? {
                return Ok(());
            }
        }
        Err(store::Error::Conflict)
    }
}

impl Lists {
    /// An admin has looked at the keys of a listed server: it is known by those in its list again.
    pub async fn clear_alarm(&self, server: &ServerName, author: &Author) -> Result<(), ListError> {
        if author.reason.trim().is_empty() {
            return Err(ListError::NoReason);
        }
        let trust = self.peers.trust();
        for _ in 0..TRIES {
            let turn = trust.turn().await?;
            let noted = trust.store().federation_lists().listed_keys().await?;
            let row = noted.into_iter().find(|row| row.server.as_str() == normal_name(server));
            let row = row.ok_or_else(|| ListError::NoAlarm(server.to_owned()))?;
            let mut write = Write::new();
            rows::remove_listed_keys(&mut write, &row.server);
            let before = Some(json!({ "moved": row.moved, "alarm": row.alarm }).to_string());
            let act = Act { action: "list.alarm_cleared", subject: row.server.as_str(), author, before, after: None };
            if trust.record(turn, write, act).await? {
                info!(server.name = %row.server, actor = author.actor, "ended the alarm of a listed server's key");
                return Ok(());
            }
        }
        Err(store::Error::Conflict.into())
    }
}
