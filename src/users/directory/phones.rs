//! Setting phones, and looking for them.

use model::Millis;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use store::{
    Write,
    sip_phones::{self as rows, FoundRow, Wanted},
};
use tracing::info;

use super::{DirectoryError, SipPhone, phone::number_of};
use crate::{Session, Users};

/// How many phones somebody has at most.
pub const MAX_PHONES: usize = 10;

/// Which phones are looked for. What isn't set doesn't matter.
#[derive(Clone, Debug, Default)]
pub struct PhoneSearch {
    /// Whose.
    pub user_id: Option<OwnedUserId>,
    /// With which number, however it is written.
    pub number: Option<String>,
    /// Of which server's people.
    pub server: Option<OwnedServerName>,
    /// From where on: [`FoundPhones::next`] of the page before.
    pub from: Option<String>,
    /// How many at most.
    pub limit: u32,
}

/// A page of phones.
#[derive(Clone, Debug)]
pub struct FoundPhones {
    /// By user and number, those of this server first.
    pub phones: Vec<FoundPhone>,
    /// From where on there are more.
    pub next: Option<String>,
}

/// A phone that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundPhone {
    /// Whose.
    pub user_id: OwnedUserId,
    /// What that person is called.
    pub display_name: Option<String>,
    /// The phone.
    pub phone: SipPhone,
    /// When the person's server last said so; `None`: it is this one.
    pub told_at: Option<Millis>,
}

/// Where a page ends. Those of this server come first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    is_elsewhere: bool,
    user_id: String,
    number: String,
}

impl Cursor {
    /// `from` as it was told; what isn't one is the beginning.
    fn read(from: Option<&str>) -> Self {
        let read = || {
            let (section, rest) = from?.split_at_checked(1)?;
            // There are slashes in user ids, and none in numbers.
            let (user_id, number) = rest.rsplit_once('/')?;
            Some(Self { is_elsewhere: section == "1", user_id: user_id.to_owned(), number: number.to_owned() })
        };
        read().unwrap_or_else(|| Self { is_elsewhere: false, user_id: String::new(), number: String::new() })
    }

    fn after(phone: &FoundPhone) -> String {
        let section = if phone.told_at.is_some() { "1" } else { "0" };
        format!("{section}{}/{}", phone.user_id, phone.phone.number)
    }
}

impl Users {
    /// Gives somebody of this server a phone, or changes it, on behalf of an admin. Answers it as it is kept.
    pub async fn put_phone(
        &self,
        author: &UserId,
        user_id: &UserId,
        phone: SipPhone,
    ) -> Result<SipPhone, DirectoryError> {
        let phone = phone.checked()?;
        self.check_is_here(user_id).await?;
        let known = self.store.sip_phones().of(&[user_id]).await?;
        if known.len() >= MAX_PHONES && known.iter().all(|one| one.number != phone.number) {
            return Err(DirectoryError::TooManyPhones(MAX_PHONES));
        }
        let mut write = Write::new();
        rows::put(&mut write, &phone.clone().into_row(user_id.to_owned()));
        self.store.commit(write).await?;
        info!(user.id = %user_id, %author, "{author} set a phone of {user_id}");
        Ok(phone)
    }

    /// Takes a phone of somebody of this server away, on behalf of an admin.
    pub async fn remove_phone(&self, author: &UserId, user_id: &UserId, number: &str) -> Result<(), DirectoryError> {
        let number = number_of(number)?;
        self.check_is_here(user_id).await?;
        let known = self.store.sip_phones().of(&[user_id]).await?;
        if known.iter().all(|one| one.number != number) {
            return Err(DirectoryError::NoPhone);
        }
        let mut write = Write::new();
        rows::remove(&mut write, user_id, &number);
        self.store.commit(write).await?;
        info!(user.id = %user_id, %author, "{author} removed a phone of {user_id}");
        Ok(())
    }

    /// As [`Self::put_phone`], for oneself, where the server lets people do that.
    pub async fn put_own_phone(&self, session: &Session, phone: SipPhone) -> Result<SipPhone, DirectoryError> {
        self.check_own_phones()?;
        self.put_phone(&session.user_id, &session.user_id, phone).await
    }

    /// As [`Self::remove_phone`], for oneself, where the server lets people do that.
    pub async fn remove_own_phone(&self, session: &Session, number: &str) -> Result<(), DirectoryError> {
        self.check_own_phones()?;
        self.remove_phone(&session.user_id, &session.user_id, number).await
    }

    fn check_own_phones(&self) -> Result<(), DirectoryError> {
        if self.config.directory.own_phones { Ok(()) } else { Err(DirectoryError::NotYours) }
    }

    /// Looks for phones, for people of this server: of theirs, and of full peers as they told.
    pub async fn search_phones(&self, search: PhoneSearch) -> Result<FoundPhones, DirectoryError> {
        let servers: Vec<OwnedServerName> = match &search.server {
            Some(server) if *server == self.server_name => Vec::new(),
            Some(server) => Some(server.clone()).into_iter().filter(|server| self.is_synchronised(server)).collect(),
            None => self.peers.trust().cascade_peers(),
        };
        let has_own = search.server.as_ref().is_none_or(|server| *server == self.server_name);
        let cursor = Cursor::read(search.from.as_deref());
        let mut wanted = wanted(&search, &cursor)?;
        // One more than a page tells that there is another page.
        let most = wanted.limit as usize;
        let mut found = Vec::new();
        if has_own && !cursor.is_elsewhere {
            found.extend(self.store.sip_phones().find(&wanted, false).await?.into_iter().map(FoundPhone::from));
            wanted.after = None;
        }
        if found.len() < most {
            found.extend(
                self.store.sip_phones().find_elsewhere(&wanted, &servers).await?.into_iter().map(FoundPhone::from),
            );
        }
        Ok(page(found, most - 1))
    }

    /// Looks for phones of this server's people, for a full peer: of those who let people of other servers find them.
    pub async fn search_phones_for_peer(&self, search: PhoneSearch) -> Result<FoundPhones, DirectoryError> {
        let wanted = wanted(&search, &Cursor::read(search.from.as_deref()))?;
        let found = self.store.sip_phones().find(&wanted, true).await?;
        Ok(page(found.into_iter().map(FoundPhone::from).collect(), wanted.limit as usize - 1))
    }

    /// Whether what `server` told of its people may be shown.
    pub(crate) fn is_synchronised(&self, server: &ServerName) -> bool {
        self.peers.trust().is_cascade_peer(server)
    }
}

fn wanted(search: &PhoneSearch, cursor: &Cursor) -> Result<Wanted, DirectoryError> {
    Ok(Wanted {
        user_id: search.user_id.clone(),
        number: search.number.as_deref().map(number_of).transpose()?,
        after: Some((cursor.user_id.clone(), cursor.number.clone())),
        limit: search.limit.saturating_add(1),
    })
}

fn page(mut phones: Vec<FoundPhone>, most: usize) -> FoundPhones {
    let has_more = phones.len() > most;
    phones.truncate(most);
    let next = phones.last().filter(|_| has_more).map(Cursor::after);
    FoundPhones { phones, next }
}

impl From<FoundRow> for FoundPhone {
    fn from(row: FoundRow) -> Self {
        let FoundRow { phone, display_name, told_at } = row;
        let display_name = match told_at {
            Some(_) => display_name,
            None => display_name.and_then(|json| serde_json::from_str(&json).ok()),
        };
        Self { user_id: phone.user_id.clone(), display_name, phone: phone.into(), told_at }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::{PhoneKind, testing::with_users};

    fn phone(number: &str) -> SipPhone {
        SipPhone { number: number.into(), uri: None, kind: PhoneKind::Desk, label: Some("Desk".into()) }
    }

    #[tokio::test]
    async fn phones_are_given_and_taken_and_found() {
        with_users(async |users, _| {
            users.register_for_tests("alice").await;
            let (admin, alice) = (user_id!("@admin:a.test"), user_id!("@alice:a.test"));
            assert_eq!(users.put_phone(admin, alice, phone("10-01")).await.expect("she is there").number, "1001");
            for number in 1002..1011 {
                users.put_phone(admin, alice, phone(&number.to_string())).await.expect("she is there");
            }
            let more = users.put_phone(admin, alice, phone("1011")).await;
            assert!(matches!(more, Err(DirectoryError::TooManyPhones(10))));
            users.put_phone(admin, alice, phone("1001")).await.expect("she has it already");
            let nobody = users.put_phone(admin, user_id!("@bob:a.test"), phone("1")).await;
            assert!(matches!(nobody, Err(DirectoryError::NoUser)));

            let mut from = None;
            let mut pages = Vec::new();
            loop {
                let search = PhoneSearch { from, limit: 4, ..PhoneSearch::default() };
                let page = users.search_phones(search).await.expect("they can be read");
                pages.push(page.phones.len());
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            assert_eq!(pages, [4, 4, 2]);
            let by_number =
                |number: &str| PhoneSearch { number: Some(number.into()), limit: 9, ..PhoneSearch::default() };
            let found = users.search_phones(by_number("1 0 0 1")).await.expect("they can be read").phones;
            assert_eq!((found.len(), found[0].display_name.as_deref()), (1, Some("alice")));
            assert!(matches!(users.search_phones(by_number("x")).await, Err(DirectoryError::Number(_))));
            assert_eq!(users.search_phones_for_peer(by_number("1001")).await.expect("it is there").phones.len(), 1);
            users.set_listed(alice, false).await.expect("it is stored");
            assert_eq!(users.search_phones_for_peer(by_number("1001")).await.expect("it is there").phones.len(), 0);

            users.remove_phone(admin, alice, "10.01").await.expect("it is there");
            assert!(matches!(users.remove_phone(admin, alice, "1001").await, Err(DirectoryError::NoPhone)));
        })
        .await;
    }
}
