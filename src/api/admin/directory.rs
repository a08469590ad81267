//! What people of this server are in the organisation, what it is made of, and who has which SIP phone.

use model::Address;
use serde::{Deserialize, Serialize};
use users::{Facts, Unit};
use utoipa::ToSchema;

use super::staff::{Admin, Viewer};
use crate::native::{
    Answer, Call, Endpoint, Nothing, delete,
    directory::{AllUnits, OneUnit, Phone, PhonePage, PhoneQuery, PhoneWish},
    get, put,
};

const PHONE: &str = "/api/v1/admin/sip-phones/{user_id}/{number}";
const PERSON: &str = "/api/v1/admin/directory/users/{user_id}";
const UNIT: &str = "/api/v1/admin/directory/units/{unit_id}";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/sip-phones", "The SIP phones of people of this server, by user and number.", phones),
        put(PHONE, "Gives somebody a SIP phone, or changes it.", put_phone).explained(
            "Spaces and what else people put between digits is left out of the number. 10 phones a user at most.",
        ),
        delete(PHONE, "Takes a SIP phone away.", remove_phone),
        get(PERSON, "What somebody is in the organisation.", person),
        put(PERSON, "Sets what somebody is in the organisation.", put_person)
            .explained("What is left out isn't set any more. `unit` must be there."),
        get("/api/v1/admin/directory/units", "The units of the organisation, by id.", units),
        put(UNIT, "Adds a unit, or changes it.", put_unit),
        delete(UNIT, "Removes a unit that nobody, and no other unit, is in.", remove_unit),
    ]
}

/// What somebody is in the organisation.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DirectoryFacts)]
struct Told {
    /// What the person does: `Head of Sales`.
    #[serde(default)]
    title: Option<String>,
    /// Where, in words.
    #[serde(default)]
    department: Option<String>,
    /// Where: the id of a unit.
    #[serde(default)]
    unit: Option<String>,
}

/// What a unit is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UnitWish {
    /// As people read it.
    name: String,
    /// The unit that it is a part of.
    #[serde(default)]
    parent: Option<String>,
}

async fn phones(call: Call<Viewer, PhoneQuery>) -> Answer<PhonePage> {
    let us = call.services.peers.server_name().to_owned();
    Ok(call.services.users.search_phones(call.query.search(Some(us))?).await?.into())
}

async fn put_phone(call: Call<Admin, Nothing, PhoneWish>) -> Answer<Phone> {
    let (user, number): (Address, String) = (call.argument("user_id")?, call.argument("number")?);
    let phone = call.body.phone(number)?;
    let author = &call.caller.session.user_id;
    Ok(call.services.users.put_phone(author, user.user_id(), phone).await?.into())
}

async fn remove_phone(call: Call<Admin>) -> Answer<Nothing> {
    let (user, number): (Address, String) = (call.argument("user_id")?, call.argument("number")?);
    call.services.users.remove_phone(&call.caller.session.user_id, user.user_id(), &number).await?;
    Ok(Nothing)
}

async fn person(call: Call<Viewer>) -> Answer<Told> {
    let user: Address = call.argument("user_id")?;
    let Facts { title, department, unit } = call.services.users.facts(user.user_id()).await?;
    Ok(Told { title, department, unit })
}

async fn put_person(call: Call<Admin, Nothing, Told>) -> Answer<Nothing> {
    let user: Address = call.argument("user_id")?;
    let Told { title, department, unit } = call.body;
    let author = &call.caller.session.user_id;
    call.services.users.set_facts(author, user.user_id(), Facts { title, department, unit }).await?;
    Ok(Nothing)
}

async fn units(call: Call<Viewer>) -> Answer<AllUnits> {
    Ok(call.services.users.units(None).await?.into())
}

async fn put_unit(call: Call<Admin, Nothing, UnitWish>) -> Answer<OneUnit> {
    let unit_id: String = call.argument("unit_id")?;
    let UnitWish { name, parent } = call.body;
    let unit = Unit { unit_id, name, parent };
    Ok(call.services.users.put_unit(&call.caller.session.user_id, unit).await?.into())
}

async fn remove_unit(call: Call<Admin>) -> Answer<Nothing> {
    let unit_id: String = call.argument("unit_id")?;
    call.services.users.remove_unit(&call.caller.session.user_id, &unit_id).await?;
    Ok(Nothing)
}
