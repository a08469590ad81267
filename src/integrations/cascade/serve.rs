//! Telling a full peer of this server's people.

use std::collections::HashMap;

use metrics::counter;
use ruma::{OwnedUserId, ServerName, UserId};
use store::{
    Write, cascade,
    directory::{PersonRow, Place, Told},
};
use users::{FoundPhones, PhoneSearch, SipPhone, Unit};

use super::{
    Cascade, CascadeError, MAX_PAGE, Page,
    page::{Entry, Removed},
    token::Walk,
};
use crate::now;

impl Cascade {
    /// A page of this server's directory for `reader`, which has proved who it is: what changed after `since`, which it was told
    /// before; without one, or with one that isn't its own, from the beginning. `limit`: how many entries at most.
    pub async fn page_for(
        &self,
        reader: &ServerName,
        since: Option<&str>,
        limit: Option<u32>,
    ) -> Result<Page, CascadeError> {
        self.check_reader(reader)?;
        let shared = &self.shared;
        let visible = shared.store.visible_position().await?;
        let known = since.and_then(|token| shared.tokens.unseal(reader, token));
        // What lies ahead of everything is of a database that was there before this one was restored.
        let known = known.filter(|walk| walk.place.position <= visible && walk.began <= visible);
        let from_start = known.is_none();
        let mut walk = known.unwrap_or_else(|| Walk { began: visible, place: Place::beginning() });
        let limit = limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
        // One more than a page tells that there is another page.
        let mut entries = shared.store.directory().entries(&walk.place, walk.began, limit + 1).await?;
        let more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        if let Some((place, _)) = entries.last() {
            walk.place = place.clone();
        }
        let mut page = Page {
            server: shared.peers.server_name().to_owned(),
            from_start,
            users: Vec::new(),
            units: Vec::new(),
            removed: Removed::default(),
            next: shared.tokens.seal(reader, &walk),
            more,
        };
        self.fill(&mut page, entries).await?;
        let walk = if from_start { "from_start" } else { "on" };
        counter!("comity_cascade_pages_told_total", "walk" => walk).increment(1);
        self.ask_who_asks(reader).await?;
        Ok(page)
    }

    /// Looks for phones of this server's people for `reader`, which has proved who it is.
    pub async fn phones_for(&self, reader: &ServerName, search: PhoneSearch) -> Result<FoundPhones, CascadeError> {
        self.check_reader(reader)?;
        Ok(self.shared.users.search_phones_for_peer(search).await?)
    }

    fn check_reader(&self, reader: &ServerName) -> Result<(), CascadeError> {
        if !self.shared.config.enabled {
            return Err(CascadeError::Disabled);
        }
        match self.shared.peers.trust().is_cascade_peer(reader) {
            true => Ok(()),
            false => Err(CascadeError::NotShared(reader.to_owned())),
        }
    }

    async fn fill(&self, page: &mut Page, entries: Vec<(Place, Told)>) -> Result<(), store::Error> {
        let people = entries.iter().filter_map(|(_, told)| match told {
            Told::Person(person) if person.is_active => Some(&*person.user_id),
            _ => None,
        });
        let people: Vec<&UserId> = people.collect();
        let mut phones: HashMap<OwnedUserId, Vec<SipPhone>> = HashMap::new();
        for phone in self.shared.store.sip_phones().of(&people).await? {
            phones.entry(phone.user_id.clone()).or_default().push(phone.into());
        }
        for (_, told) in entries {
            match told {
                Told::Person(person) => {
                    let sip_phones = phones.remove(&person.user_id).unwrap_or_default();
                    page.users.push(entry(person, sip_phones));
                }
                Told::Unit(unit) => page.units.push(Unit::from(unit)),
                Told::PersonGone(user_id) => page.removed.users.push(user_id),
                Told::UnitGone(unit_id) => page.removed.units.push(unit_id),
            }
        }
        Ok(())
    }

    /// Whoever asks trusts this server: perhaps it did not before, and was asked in vain.
    async fn ask_who_asks(&self, reader: &ServerName) -> Result<(), store::Error> {
        let shared = &self.shared;
        let row = shared.store.cascade().peer(reader).await?;
        if row.is_some_and(|row| row.failures > 0 && row.next_at > now()) {
            let mut write = Write::new();
            cascade::ask_at(&mut write, reader, now(), false);
            shared.store.commit(write).await?;
            shared.news.notify_one();
        }
        Ok(())
    }
}

fn entry(person: PersonRow, sip_phones: Vec<SipPhone>) -> Entry {
    let PersonRow { user_id, is_active, display_name, avatar_url, facts } = person;
    let text = |json: Option<String>| json.filter(|_| is_active).and_then(|json| serde_json::from_str(&json).ok());
    let facts = if is_active { facts.into() } else { users::Facts::default() };
    Entry {
        display_name: text(display_name),
        avatar_url: text(avatar_url),
        user_id,
        active: is_active,
        facts,
        sip_phones,
    }
}
