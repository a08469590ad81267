//! The directory: what people are in their organisations, and their SIP phones; of this server, and of full peers as they told.

use model::{Address, Millis};
use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};
use users::{Card, DirectoryError, PhoneSearch, SipPhone, Unit};
use utoipa::{IntoParams, ToSchema};

use super::{Answer, Call, Endpoint, Nothing, delete, get, put};
use crate::{Problem, Session};

/// The endpoints of this file.
pub(super) fn endpoints() -> Vec<Endpoint> {
    const OWN: &str = "Where `cascade.own_phones` lets people set their phones; 403 `forbidden` otherwise.";
    const OWN_PHONE: &str = "/api/v1/users/me/sip-phones/{number}";
    vec![
        get("/api/v1/sip-phones", "Looks for SIP phones, by user, by number, or all of them.", phones).explained(
            "Of people of this server, which come first, and of full peers as far as these have told: `server` says whose word \
             it is, and `told_at` from when. By user and number.",
        ),
        put(OWN_PHONE, "Gives oneself a SIP phone, or changes it.", put_own).explained(OWN),
        delete(OWN_PHONE, "Takes a SIP phone of one's own away.", remove_own).explained(OWN),
        get("/api/v1/directory/units", "The units of an organisation.", units)
            .explained("Of this server's, or, with `server`, of that of a full peer as it told. By id, 5,000 at most."),
    ]
}

/// How many phones a page has where nothing is said, and at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;

// === phones ===

/// Which phones one looks for. What is left out doesn't matter.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PhoneQuery {
    /// Whose: `alice@a.example` or `@alice:a.example`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    user: Option<Address>,
    /// The whole number, however it is written.
    #[serde(default)]
    number: Option<String>,
    /// Of which server's people.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    server: Option<OwnedServerName>,
    /// `next` of the page before.
    #[serde(default)]
    from: Option<String>,
    /// How many at most, 1 to 200; left out: 50.
    #[serde(default)]
    limit: Option<u32>,
}

impl PhoneQuery {
    /// As it is asked for below; `server`: of nobody else's people, whatever the query says.
    pub(crate) fn search(self, server: Option<OwnedServerName>) -> Result<PhoneSearch, Problem> {
        let limit = self.limit.unwrap_or(USUAL);
        if !(1..=MOST).contains(&limit) {
            return Err(Problem::invalid(format!("`limit` must be 1 to {MOST}")).with("field", "limit"));
        }
        let user_id = self.user.map(|user| user.user_id().to_owned());
        Ok(PhoneSearch { user_id, number: self.number, server: server.or(self.server), from: self.from, limit })
    }
}

/// A page of SIP phones.
#[derive(Serialize, ToSchema)]
pub(crate) struct PhonePage {
    /// By user and number.
    phones: Vec<FoundPhone>,
    /// There are more: `from` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A SIP phone, and whose it is.
#[derive(Serialize, ToSchema)]
struct FoundPhone {
    /// As Matrix spells it: `@alice:b.example`.
    #[schema(value_type = String)]
    user_id: OwnedUserId,
    /// As people spell it: `alice@b.example`.
    #[schema(value_type = String)]
    address: Address,
    /// What the person is called.
    display_name: Option<String>,
    /// The phone.
    #[serde(flatten)]
    phone: Phone,
    /// Which server says so: the person's own.
    #[schema(value_type = String)]
    server: OwnedServerName,
    /// When it last said so, milliseconds since 1970; null: it is this one.
    told_at: Option<Millis>,
}

/// A SIP phone.
#[derive(Serialize, ToSchema)]
#[schema(as = SipPhone)]
pub(crate) struct Phone {
    /// What one dials: an extension, or a whole number with a +.
    number: String,
    /// `sip:1001@sip.a.example`.
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    /// `desk`, `softphone`, `mobile`, `conference`, `fax` or `other`.
    kind: &'static str,
    /// For people: `Reception`.
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

impl From<SipPhone> for Phone {
    fn from(phone: SipPhone) -> Self {
        Self { number: phone.number, uri: phone.uri, kind: phone.kind.as_str(), label: phone.label }
    }
}

impl From<users::FoundPhones> for PhonePage {
    fn from(found: users::FoundPhones) -> Self {
        let phones = found.phones.into_iter().map(|found| FoundPhone {
            address: found.user_id.clone().into(),
            server: found.user_id.server_name().to_owned(),
            user_id: found.user_id,
            display_name: found.display_name,
            phone: found.phone.into(),
            told_at: found.told_at,
        });
        Self { phones: phones.collect(), next: found.next }
    }
}

/// What is to be known of a SIP phone besides its number.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SipPhoneWish)]
pub(crate) struct PhoneWish {
    /// `sip:1001@sip.a.example`.
    #[serde(default)]
    uri: Option<String>,
    /// `desk`, `softphone`, `mobile`, `conference`, `fax` or `other`; left out: `desk`.
    #[serde(default)]
    kind: Option<String>,
    /// For people: `Reception`.
    #[serde(default)]
    label: Option<String>,
}

impl PhoneWish {
    pub(crate) fn phone(self, number: String) -> Result<SipPhone, DirectoryError> {
        let kind = self.kind.map(|kind| kind.parse()).transpose()?.unwrap_or_default();
        Ok(SipPhone { number, uri: self.uri, kind, label: self.label })
    }
}

async fn phones(call: Call<Session, PhoneQuery>) -> Answer<PhonePage> {
    Ok(call.services.users.search_phones(call.query.search(None)?).await?.into())
}

async fn put_own(call: Call<Session, Nothing, PhoneWish>) -> Answer<Phone> {
    let number: String = call.argument("number")?;
    let phone = call.body.phone(number)?;
    Ok(call.services.users.put_own_phone(&call.caller, phone).await?.into())
}

async fn remove_own(call: Call<Session>) -> Answer<Nothing> {
    let number: String = call.argument("number")?;
    call.services.users.remove_own_phone(&call.caller, &number).await?;
    Ok(Nothing)
}

// === the organisation ===

/// Whose units.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UnitQuery {
    /// Of which server's organisation; left out: this one's.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    server: Option<OwnedServerName>,
}

/// The units of an organisation.
#[derive(Serialize, ToSchema)]
pub(crate) struct AllUnits {
    /// By id.
    units: Vec<OneUnit>,
}

/// A part of an organisation.
#[derive(Serialize, ToSchema)]
#[schema(as = Unit)]
pub(crate) struct OneUnit {
    /// As programs call it.
    unit_id: String,
    /// As people read it.
    name: String,
    /// The unit that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
}

impl From<Unit> for OneUnit {
    fn from(unit: Unit) -> Self {
        Self { unit_id: unit.unit_id, name: unit.name, parent: unit.parent }
    }
}

impl From<Vec<Unit>> for AllUnits {
    fn from(units: Vec<Unit>) -> Self {
        Self { units: units.into_iter().map(OneUnit::from).collect() }
    }
}

async fn units(call: Call<Session, UnitQuery>) -> Answer<AllUnits> {
    Ok(call.services.users.units(call.query.server.as_deref()).await?.into())
}

/// What somebody is in the organisation, and how to reach them there.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Work {
    /// What the person does.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// Where, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    department: Option<String>,
    /// Where: the id of a unit of the person's organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// By number.
    #[schema(value_type = Vec<Object>)]
    sip_phones: Vec<SipPhone>,
    /// When the person's server last said so, milliseconds since 1970; null: it is this one.
    told_at: Option<Millis>,
}

impl From<Card> for Work {
    fn from(card: Card) -> Self {
        let Card { facts, phones, told_by } = card;
        let told_at = told_by.map(|by| by.told_at);
        Self { title: facts.title, department: facts.department, unit: facts.unit, sip_phones: phones, told_at }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use crate::testing::with_server;

    #[tokio::test]
    async fn people_look_phones_up_and_set_none_themselves() {
        with_server(async |server| {
            let (alice, _) = server.register("alice").await;
            let alice = Some(alice.as_str());
            assert_eq!(server.get("/api/v1/sip-phones?user=alice@a.test", alice).await, json!({ "phones": [] }));
            assert_eq!(server.get("/api/v1/directory/units", alice).await, json!({ "units": [] }));
            for (method, path, status) in [
                (Method::GET, "/api/v1/sip-phones?number=x", StatusCode::BAD_REQUEST),
                (Method::GET, "/api/v1/sip-phones?limit=0", StatusCode::BAD_REQUEST),
                (Method::GET, "/api/v1/sip-phones?who=alice", StatusCode::BAD_REQUEST),
                (Method::PUT, "/api/v1/users/me/sip-phones/1001", StatusCode::FORBIDDEN),
                (Method::DELETE, "/api/v1/users/me/sip-phones/1001", StatusCode::FORBIDDEN),
                (Method::PUT, "/api/v1/admin/sip-phones/alice@a.test/1001", StatusCode::FORBIDDEN),
                (Method::GET, "/api/v1/admin/cascade", StatusCode::FORBIDDEN),
            ] {
                assert_eq!(server.ask(method, path, alice, "").await.0, status, "{path}");
            }
            assert_eq!(server.ask(Method::GET, "/api/v1/sip-phones", None, "").await.0, StatusCode::UNAUTHORIZED);
        })
        .await;
    }
}
