//! What of a page of a peer's directory is taken. A peer speaks for its own domain and for nobody else's; what it says is cut to
//! what can be shown, and what makes no sense is left out and counted.

use model::Millis;
use ruma::{MxcUri, OwnedUserId, ServerName};
use serde::Deserialize;
use serde_json::Value;
use store::{
    cascade::PersonRow,
    directory::{FactsRow, UnitRow},
    sip_phones::PhoneRow,
};
use users::{
    SipPhone,
    directory::{MAX_PHONES, MAX_TEXT, is_text, is_unit_id},
};

use super::{page::RawPage, token::MAX_TOKEN};

/// Longer names are cut, in characters.
const MAX_NAME: usize = 256;
/// Longer addresses of pictures are left out, in bytes.
const MAX_AVATAR_URL: usize = 1_000;

/// Why a page is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it tells of the directory of another server")]
    WrongServer,
    #[error("it tells of {0} entries at once, more than it was asked for")]
    TooManyAtOnce(usize),
    #[error("it says that there is more, and doesn't get on")]
    NoProgress,
    #[error("what it says to go on from is longer than {MAX_TOKEN} bytes, or nothing")]
    Token,
    #[error("it has more than {0} entries, which is as many as are kept of one server")]
    TooMany(u32),
    #[error("it does not come to an end")]
    Endless,
}

impl Fault {
    /// One word, for figures.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::WrongServer => "wrong_server",
            Self::TooManyAtOnce(_) => "too_many_at_once",
            Self::NoProgress => "no_progress",
            Self::Token => "bad_token",
            Self::TooMany(_) => "too_many",
            Self::Endless => "endless",
        }
    }
}

/// What is taken of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) people: Vec<(PersonRow, Vec<PhoneRow>)>,
    pub(super) units: Vec<UnitRow>,
    pub(super) gone: Vec<OwnedUserId>,
    pub(super) gone_units: Vec<String>,
    /// How many entries, or phones of entries, were not taken.
    pub(super) refused: i64,
}

/// Whether a page is one that `server` may tell, when it was asked for `limit` entries after `since`.
pub(super) fn check(server: &ServerName, page: &RawPage, since: Option<&str>, limit: u32) -> Result<(), Fault> {
    if page.server != *server {
        return Err(Fault::WrongServer);
    }
    if page.len() > limit as usize {
        return Err(Fault::TooManyAtOnce(page.len()));
    }
    if !(1..=MAX_TOKEN).contains(&page.next.len()) {
        return Err(Fault::Token);
    }
    if page.more && (page.len() == 0 || since == Some(page.next.as_str())) {
        return Err(Fault::NoProgress);
    }
    Ok(())
}

/// What is taken of a page of `server`.
pub(super) fn judge(server: &ServerName, page: RawPage, now: Millis) -> Taken {
    let mut taken = Taken::default();
    for value in page.users {
        match person(server, value, now, &mut taken.refused) {
            Some(known) => taken.people.push(known),
            None => taken.refused += 1,
        }
    }
    for value in page.units {
        match unit(value) {
            Some(unit) => taken.units.push(unit),
            None => taken.refused += 1,
        }
    }
    for value in page.removed.users {
        let user_id = serde_json::from_value::<OwnedUserId>(value).ok();
        match user_id.filter(|user_id| user_id.server_name() == server) {
            Some(user_id) => taken.gone.push(user_id),
            None => taken.refused += 1,
        }
    }
    for value in page.removed.units {
        match serde_json::from_value::<String>(value).ok().filter(|unit_id| is_unit_id(unit_id)) {
            Some(unit_id) => taken.gone_units.push(unit_id),
            None => taken.refused += 1,
        }
    }
    taken
}

#[derive(Deserialize)]
struct RawPerson {
    user_id: OwnedUserId,
    active: bool,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    avatar_url: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    department: Option<String>,
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    sip_phones: Vec<Value>,
}

fn person(server: &ServerName, value: Value, now: Millis, refused: &mut i64) -> Option<(PersonRow, Vec<PhoneRow>)> {
    let raw: RawPerson = serde_json::from_value(value).ok()?;
    if raw.user_id.server_name() != server {
        return None;
    }
    if !raw.active {
        let (user_id, facts) = (raw.user_id, FactsRow::default());
        let row = PersonRow { user_id, closed_at: Some(now), display_name: None, avatar_url: None, facts };
        return Some((row, Vec::new()));
    }
    let mut phones: Vec<PhoneRow> = Vec::new();
    for value in raw.sip_phones {
        let phone = serde_json::from_value::<SipPhone>(value).ok().and_then(|phone| phone.checked().ok());
        match phone.filter(|phone| phones.len() < MAX_PHONES && phones.iter().all(|one| one.number != phone.number)) {
            Some(phone) => phones.push(phone.into_row(raw.user_id.clone())),
            None => *refused += 1,
        }
    }
    let is_picture = |url: &String| url.len() <= MAX_AVATAR_URL && <&MxcUri>::from(url.as_str()).is_valid();
    let facts = FactsRow {
        title: raw.title.and_then(|text| cut(&text, MAX_TEXT)),
        department: raw.department.and_then(|text| cut(&text, MAX_TEXT)),
        unit_id: raw.unit.filter(|unit| is_unit_id(unit)),
    };
    let row = PersonRow {
        user_id: raw.user_id,
        closed_at: None,
        display_name: raw.display_name.and_then(|name| cut(&name, MAX_NAME)),
        avatar_url: raw.avatar_url.filter(is_picture),
        facts,
    };
    Some((row, phones))
}

#[derive(Deserialize)]
struct RawUnit {
    unit_id: String,
    name: String,
    #[serde(default)]
    parent: Option<String>,
}

fn unit(value: Value) -> Option<UnitRow> {
    let RawUnit { unit_id, name, parent } = serde_json::from_value(value).ok()?;
    let is_right = is_unit_id(&unit_id) && is_text(&name) && parent.as_deref().is_none_or(is_unit_id);
    is_right.then_some(UnitRow { unit_id, name, parent })
}

/// The first `most` characters that can be shown; none: there are none.
fn cut(text: &str, most: usize) -> Option<String> {
    let text: String = text.chars().filter(|letter| !letter.is_control()).take(most).collect();
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;

    fn page(change: Value) -> RawPage {
        let mut page = json!({ "server": "b.test", "from_start": true, "next": "t", "more": false });
        page.as_object_mut().expect("it is one").extend(change.as_object().expect("it is one").clone());
        serde_json::from_value(page).expect("it is a page")
    }

    #[test]
    fn a_page_that_makes_no_sense_is_of_no_use() {
        let b = server_name!("b.test");
        let check = |change, since| check(b, &page(change), since, 2);
        assert_eq!(check(json!({}), Some("t")), Ok(()), "nothing has changed");
        assert_eq!(check(json!({ "more": true, "users": [1] }), Some("s")), Ok(()));
        assert_eq!(check(json!({ "server": "c.test" }), None), Err(Fault::WrongServer));
        let three = json!({ "users": [1], "units": [1], "removed": { "users": [1] } });
        assert_eq!(check(three, None), Err(Fault::TooManyAtOnce(3)));
        assert_eq!(check(json!({ "more": true, "users": [1] }), Some("t")), Err(Fault::NoProgress));
        assert_eq!(check(json!({ "more": true }), Some("s")), Err(Fault::NoProgress));
        assert_eq!(check(json!({ "next": "" }), None), Err(Fault::Token));
        assert_eq!(check(json!({ "next": "x".repeat(1_001) }), None), Err(Fault::Token));
    }

    #[test]
    fn a_server_speaks_for_its_own_people() {
        let b = server_name!("b.test");
        let taken = judge(
            b,
            page(json!({
                "users": [
                    { "user_id": "@bob:b.test", "active": true, "display_name": "Bo\u{0}b", "avatar_url": "https://x", "title": "é".repeat(200),
                      "department": " ", "unit": "No Unit", "sip_phones": [
                          { "number": "10 01", "uri": "sip:1001@b.test" }, { "number": "1001" }, { "number": "x" }, 7] },
                    { "user_id": "@ute:b.test", "active": false, "display_name": "Ute", "sip_phones": [{ "number": "1" }] },
                    { "user_id": "@alice:a.test", "active": true },
                    { "user_id": "@eve:b.test" }, "eve", null,
                ],
                "units": [{ "unit_id": "x", "name": "X", "parent": "y" }, { "unit_id": "X", "name": "X" }, { "unit_id": "y", "name": "" }],
                "removed": { "users": ["@old:b.test", "@alice:a.test", 1], "units": ["old", "O L D"] },
            })),
            5,
        );
        let (bob, phones) = &taken.people[0];
        assert_eq!((bob.display_name.as_deref(), bob.avatar_url.as_deref()), (Some("Bob"), None));
        assert_eq!(bob.facts, FactsRow { title: Some("é".repeat(100)), department: None, unit_id: None });
        assert_eq!((phones.len(), phones[0].number.as_str()), (1, "1001"));
        let (ute, phones) = &taken.people[1];
        assert_eq!((ute.closed_at, ute.display_name.as_deref(), phones.len()), (Some(5), None, 0));
        assert_eq!((taken.people.len(), taken.units.len(), taken.gone.len(), taken.gone_units.len()), (2, 1, 1, 1));
        assert_eq!(taken.refused, 3 + 4 + 2 + 2 + 1);
    }
}
