//! Going by the lists of others.

use std::{collections::BTreeMap, str::FromStr};

use model::{
    Millis,
    peer::{PeerPattern, TrustLevel},
};
use ruma::{OwnedServerName, ServerName};
use serde_json::json;
use store::{
    Write,
    federation_lists::{self as rows, Asked, SubscriptionRow},
};
use tracing::info;

use super::{
    Entries, ListError, ListFault, ListedServer, Lists, SubscriptionView, TRIES,
    document::SignedList,
    judge::{Known, judge},
    publish::unpadded,
    view::difference,
};
use crate::{
    keys::is_verify_key,
    peering::{are_said, words_of},
    trust::{Act, Author},
};

/// How many lists a server goes by.
const MOST: usize = 16;

/// The name of one server, as lists and subscriptions spell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listable(pub OwnedServerName);

impl FromStr for Listable {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.parse::<PeerPattern>() {
            Ok(PeerPattern::Exact(server)) => Ok(Self(server)),
            Ok(PeerPattern::Below(_)) => Err(format!("`{name}` is not the name of one server")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// How to go by a list; what isn't set stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// How far it can make this server trust others; a new subscription needs it.
    pub highest_level: Option<TrustLevel>,
    /// The only keys that may sign it, by their ids, base64. Of a new subscription where there are none: those that an admin has
    /// pinned the publisher to, or those that it shows, which an admin then compares.
    pub keys: Option<BTreeMap<String, String>>,
    /// The words of its keys, as its admin says them by phone: where `keys` doesn't name them, those that it shows are taken, if
    /// they have these.
    pub words: Option<String>,
}

/// What a subscription begins with.
pub(super) struct First {
    pub(super) pins: BTreeMap<String, String>,
    pub(super) signed: SignedList,
}

impl Lists {
    /// Goes by the list of `publisher` from now on, or changes how. A new subscription begins with a list that could be taken, and
    /// there is none otherwise; it is in force when this returns, here, and on other nodes within a second.
    ///
    /// `seen`: the revision that the author has looked at, 0: there was none; `None`: whatever is there.
    pub async fn subscribe(
        &self,
        publisher: &ServerName,
        wish: &Wish,
        author: &Author,
        seen: Option<i64>,
    ) -> Result<SubscriptionView, ListError> {
        if self.peers.is_us(publisher) {
            return Err(ListError::Ourselves(publisher.to_owned()));
        }
        check(wish, author)?;
        let wish = &match (&wish.keys, &wish.words) {
            (None, Some(words)) => Wish { keys: Some(self.keys_said(publisher, words).await?), ..wish.clone() },
            _ => wish.clone(),
        };
        let lists = self.peers.trust().store().federation_lists();
        let first = match lists.find(publisher).await? {
            Some(_) => None,
            None => Some(self.first(publisher, wish).await?),
        };
        self.begin(publisher, wish, first, author, seen).await
    }

    /// The keys that `publisher` shows, which have to have these words.
    async fn keys_said(&self, publisher: &ServerName, said: &str) -> Result<BTreeMap<String, String>, ListError> {
        let failed = |fault| ListError::Fault { publisher: publisher.to_owned(), fault };
        let keys = self.peers.keys().shown_by(publisher).await.map_err(|error| failed(error.into()))?;
        let words = words_of(publisher, &keys);
        match are_said(&words, said) {
            true => Ok(keys),
            false => {
                Err(failed(ListFault::WrongKey(format!("the keys that it shows have the words {}", words.join(" ")))))
            }
        }
    }

    /// Asks for what a subscription begins with.
    async fn first(&self, publisher: &ServerName, wish: &Wish) -> Result<First, ListError> {
        if wish.highest_level.is_none() {
            let wrong = "say with `highest_level` how far the list may make this server trust others";
            return Err(ListError::Invalid(wrong.to_owned()));
        }
        let failed = |fault| ListError::Fault { publisher: publisher.to_owned(), fault };
        let signed = self.fetch(publisher).await.map_err(failed)?;
        let pins = match &wish.keys {
            Some(keys) => unpadded(keys.clone()),
            None => unpadded(self.peers.trust().pinned_keys(publisher)),
        };
        let pins = match pins.is_empty() {
            false => pins,
            true => {
                let shown = self.peers.keys().shown_by(publisher).await;
                shown.map_err(|error| failed(error.into()))?
            }
        };
        let known = Known { publisher, pins: &pins, version: 0, digest: "" };
        judge(&known, &signed, crate::keys::wall_clock()).map_err(failed)?;
        Ok(First { pins, signed })
    }

    /// As [`Self::subscribe`], with what was asked for already, if there was no subscription.
    pub(super) async fn begin(
        &self,
        publisher: &ServerName,
        wish: &Wish,
        first: Option<First>,
        author: &Author,
        seen: Option<i64>,
    ) -> Result<SubscriptionView, ListError> {
        let trust = self.peers.trust();
        let lists = trust.store().federation_lists();
        for _ in 0..TRIES {
            let turn = trust.turn().await?;
            let all = lists.subscriptions().await?;
            let before = all.iter().find(|row| row.publisher == publisher);
            let current = before.map_or(0, |row| row.revision);
            if seen.is_some_and(|seen| seen != current) {
                return Err(ListError::Outdated { current });
            }
            let mut write = Write::new();
            let (action, mut after) = match (before, &first) {
                (Some(row), _) => ("list.changed", row.clone()),
                (None, Some(first)) if all.len() < MOST => {
                    rows::put_document(&mut write, publisher, &first.signed.to_json());
                    ("list.subscribed", self.new_row(publisher, first, turn.now))
                }
                (None, Some(_)) => {
                    return Err(ListError::Invalid(format!("a server goes by {MOST} lists at most")));
                }
                (None, None) => return Err(ListError::NotSubscribed(publisher.to_owned())),
            };
            after.highest_level = wish.highest_level.unwrap_or(after.highest_level);
            if let Some(keys) = wish.keys.as_ref().filter(|_| before.is_some()) {
                after.pins = serde_json::to_string(&unpadded(keys.clone())).expect("keys are JSON");
                // Whether they are right is seen at once.
                after.asked.next_at = turn.now;
                rows::asked(&mut write, publisher, &after.asked);
            }
            (after.revision, after.changed_at) = (turn.number(), turn.now);
            after.changed_by.clone_from(&author.actor);
            rows::put(&mut write, &after);
            let mut told = logged(&after);
            if before.is_none()
                && let Some(first) = &first
            {
                told["changes"] = difference(&Entries::new(), &first.signed.list.entries);
            }
            let act = Act {
                action,
                subject: publisher.as_str(),
                author,
                before: before.map(|row| logged(row).to_string()),
                after: Some(told.to_string()),
            };
            if trust.record(turn, write, act).await? {
                info!(server.name = %publisher, actor = author.actor, action, "goes by the list of {publisher}");
                return self.show(publisher).await;
            }
        }
        Err(store::Error::Conflict.into())
    }

    fn new_row(&self, publisher: &ServerName, first: &First, now: Millis) -> SubscriptionRow {
        let First { pins, signed } = first;
        SubscriptionRow {
            publisher: publisher.to_owned(),
            // Whoever subscribes has said more.
            highest_level: TrustLevel::Blocked,
            pins: serde_json::to_string(pins).expect("keys are JSON"),
            version: signed.list.version,
            digest: signed.digest.clone(),
            expires_at: signed.list.expires_at,
            taken_at: now,
            closed_at: None,
            revision: 0,
            changed_by: String::new(),
            changed_at: now,
            asked: Asked { checked_at: now, next_at: now + self.pause(None), refusal: None },
        }
    }

    /// Goes by the list of `publisher` no longer: what it says counts for nothing, at once.
    pub async fn unsubscribe(
        &self,
        publisher: &ServerName,
        author: &Author,
        seen: Option<i64>,
    ) -> Result<(), ListError> {
        if author.reason.trim().is_empty() {
            return Err(ListError::NoReason);
        }
        let trust = self.peers.trust();
        for _ in 0..TRIES {
            let turn = trust.turn().await?;
            let row = trust.store().federation_lists().find(publisher).await?;
            let row = row.ok_or_else(|| ListError::NotSubscribed(publisher.to_owned()))?;
            if seen.is_some_and(|seen| seen != row.revision) {
                return Err(ListError::Outdated { current: row.revision });
            }
            let mut write = Write::new();
            rows::remove(&mut write, publisher);
            let before = Some(logged(&row).to_string());
            let act = Act { action: "list.unsubscribed", subject: publisher.as_str(), author, before, after: None };
            if trust.record(turn, write, act).await? {
                info!(server.name = %publisher, actor = author.actor, "goes by the list of {publisher} no longer");
                return Ok(());
            }
        }
        Err(store::Error::Conflict.into())
    }

    /// Every list that this deployment goes by, by publisher.
    pub async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, ListError> {
        let trust = self.peers.trust();
        let (grace, now) = (trust.list_grace(), crate::keys::wall_clock());
        let rows = trust.store().federation_lists().subscriptions().await?;
        Ok(rows.into_iter().map(|row| SubscriptionView::of(row, grace, now)).collect())
    }

    /// One of them, with what it says of whom, and what follows.
    pub async fn show(&self, publisher: &ServerName) -> Result<SubscriptionView, ListError> {
        let trust = self.peers.trust();
        let lists = trust.store().federation_lists();
        let row = lists.find(publisher).await?.ok_or_else(|| ListError::NotSubscribed(publisher.to_owned()))?;
        let document = lists.document(publisher).await?.unwrap_or_default();
        let entries = SignedList::read(document.as_bytes()).map(|signed| signed.list.entries).unwrap_or_default();
        let mut view = SubscriptionView::of(row, trust.list_grace(), crate::keys::wall_clock());
        let shown = lists.listed_keys().await?;
        let servers = entries.into_iter().map(|(server, listed)| ListedServer::of(server, listed, trust, &shown));
        view.servers = Some(servers.collect());
        Ok(view)
    }
}

fn check(wish: &Wish, author: &Author) -> Result<(), ListError> {
    if author.reason.trim().is_empty() {
        return Err(ListError::NoReason);
    }
    match &wish.keys {
        Some(keys) if keys.is_empty() || !unpadded(keys.clone()).iter().all(|(id, key)| is_verify_key(id, key)) => {
            let wrong = "`keys` are of the form \"ed25519:name\": \"32 bytes in base64\", and there is one at least";
            Err(ListError::Invalid(wrong.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The subscription as the log has it.
pub(super) fn logged(row: &SubscriptionRow) -> serde_json::Value {
    let pins: BTreeMap<String, String> = serde_json::from_str(&row.pins).unwrap_or_default();
    json!({
        "highest_level": row.highest_level, "keys": pins, "version": row.version, "digest": row.digest,
        "expires_at": row.expires_at,
    })
}
