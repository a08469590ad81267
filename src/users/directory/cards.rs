//! What is known of people besides their profiles: what they are in the organisation, and their phones.

use std::collections::HashMap;

use model::Millis;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use store::{directory::FactsRow, sip_phones::PhoneRow};

use super::{Facts, SipPhone};
use crate::{People, Person, Users, discovery::MAX_FOUND};

/// No page of people is longer than this.
const MAX_CARDS: usize = 100;

/// What is known of somebody besides the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// What the person is in the organisation.
    pub facts: Facts,
    /// By number.
    pub phones: Vec<SipPhone>,
    /// What the person's server told, which is another one.
    pub told_by: Option<Organisation>,
}

/// The server that told of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organisation {
    /// Which.
    pub server: OwnedServerName,
    /// When it last said so, milliseconds since 1970.
    pub told_at: Millis,
}

impl Users {
    /// What is known of people besides their profiles: of this server's own, and of those of full peers as these told. Those of
    /// whom nothing is known are left out. 100 at once.
    pub async fn cards(&self, user_ids: &[&UserId]) -> Result<HashMap<OwnedUserId, Card>, store::Error> {
        let known = user_ids.iter().copied().take(MAX_CARDS);
        let (ours, theirs): (Vec<&UserId>, Vec<&UserId>) = known.partition(|user_id| self.is_ours(user_id));
        let facts = self.store.directory().facts(&ours).await?;
        let phones = self.store.sip_phones().of(&ours).await?;
        let mut cards = gathered(facts.into_iter().map(|(user_id, facts)| (user_id, facts, None)), phones);
        let theirs: Vec<&UserId> =
            theirs.into_iter().filter(|user_id| self.is_synchronised(user_id.server_name())).collect();
        if theirs.is_empty() {
            return Ok(cards);
        }
        let mut organisations: HashMap<OwnedServerName, Option<Organisation>> = HashMap::new();
        for user_id in &theirs {
            let server = user_id.server_name();
            if !organisations.contains_key(server) {
                organisations.insert(server.to_owned(), self.organisation(server).await?);
            }
        }
        let people = self.store.cascade().people(&theirs).await?;
        let phones = self.store.sip_phones().of_elsewhere(&theirs).await?;
        let told = people.into_iter().filter_map(|(user_id, person)| {
            let by = organisations.get(user_id.server_name()).cloned().flatten()?;
            Some((user_id, person.facts, Some(by)))
        });
        cards.extend(gathered(told, phones).into_iter().filter(|(_, card)| card.told_by.is_some()));
        Ok(cards)
    }

    /// Looks for people of a full peer in what it told, if all of it is here.
    pub(crate) async fn search_synchronised(
        &self,
        server: &ServerName,
        term: &str,
    ) -> Result<Option<People>, store::Error> {
        if !self.is_synchronised(server) || self.organisation(server).await?.is_none() {
            return Ok(None);
        }
        let mut rows = self.store.cascade().search(server, term, MAX_FOUND + 1).await?;
        let is_limited = rows.len() > MAX_FOUND;
        rows.truncate(MAX_FOUND);
        let people = rows.into_iter().map(|row| Person {
            user_id: row.user_id,
            display_name: row.display_name,
            avatar_url: row.avatar_url,
        });
        Ok(Some(People { people: people.collect(), is_limited }))
    }

    /// When a server last told of its people, if all that it told is here.
    async fn organisation(&self, server: &ServerName) -> Result<Option<Organisation>, store::Error> {
        let row = self.store.cascade().peer(server).await?.filter(|row| row.whole > 0);
        Ok(row.and_then(|row| Some(Organisation { server: row.server, told_at: row.told_at? })))
    }
}

fn gathered(
    facts: impl Iterator<Item = (OwnedUserId, FactsRow, Option<Organisation>)>,
    phones: Vec<PhoneRow>,
) -> HashMap<OwnedUserId, Card> {
    let card = |facts, told_by| Card { facts, phones: Vec::new(), told_by };
    let mut cards: HashMap<OwnedUserId, Card> =
        facts.map(|(user_id, facts, told_by)| (user_id, card(facts.into(), told_by))).collect();
    for phone in phones {
        let known = cards.entry(phone.user_id.clone()).or_insert_with(|| card(Facts::default(), None));
        known.phones.push(phone.into());
    }
    cards
}
