//! What users say of themselves.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#profiles>

use axum::response::Response;
use http::Method;
use ruma::{
    OwnedUserId, UserId,
    api::{
        IncomingRequest,
        client::profile::{delete_profile_field, get_profile, get_profile_field},
    },
    profile::ProfileFieldValue,
};
use serde_json::{Map, Value};

use crate::{
    Answer, Ask, Authenticate, Error, Needs, Route, Services,
    endpoint::{PlainAsk, empty_answer, endpoint, parse_json, plain_endpoint},
};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        endpoint(get),
        endpoint(get_field),
        plain_endpoint(Method::PUT, "/_matrix/client/v3/profile/{user_id}/{field}", Needs::User, set_field)
            .also_at("/_matrix/client/r0/profile/{user_id}/{field}")
            .also_at("/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}"),
        endpoint(delete_field),
    ]
}

async fn get(ask: Ask<get_profile::v3::Request>) -> Answer<get_profile::v3::Response> {
    let asker = asker_of(&ask).await;
    let profile = ask.services.users.profile(asker.as_deref(), &ask.request.user_id).await?;
    Ok(profile.into_iter().collect())
}

async fn get_field(ask: Ask<get_profile_field::v3::Request>) -> Answer<get_profile_field::v3::Response> {
    let (asker, field) = (asker_of(&ask).await, ask.request.field.as_str());
    let value = ask.services.users.profile_field(asker.as_deref(), &ask.request.user_id, field).await?;
    let value = ProfileFieldValue::new(field, value).map_err(|_| Error::not_found("the profile has no such field"))?;
    Ok(get_profile_field::v3::Response::new(value))
}

/// Anybody may ask; but who it is can matter to what is told of users of other servers.
async fn asker_of<R>(ask: &Ask<R>) -> Option<OwnedUserId>
where
    R: IncomingRequest,
    R::Authentication: Authenticate,
{
    ask.user().await.ok().map(|session| session.user_id.clone())
}

/// Looks at the body itself: ruma's type says less of what is wrong, and does not know that a name may be null.
async fn set_field(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let [user_id, field] = ask.arguments.as_slice() else { return Err(Error::unrecognized()) };
    let user_id = UserId::parse(user_id).map_err(|_| Error::invalid_param("the path names no user id"))?;
    let mut body: Map<String, Value> = parse_json(&ask.body)?;
    let Some(value) = body.remove(field) else {
        let message = format!("`{field}` is missing");
        return Err(Error::missing_param(message));
    };
    let is_changed = ask.services.users.set_profile_field(&session.user_id, &user_id, field, &value).await?;
    if is_changed {
        tell_rooms(&ask.services, &user_id, field).await?;
    }
    Ok(empty_answer())
}

async fn delete_field(ask: Ask<delete_profile_field::v3::Request>) -> Answer<delete_profile_field::v3::Response> {
    let (user_id, field) = (&ask.request.user_id, ask.request.field.as_str());
    if ask.services.users.remove_profile_field(&ask.session.user_id, user_id, field).await? {
        tell_rooms(&ask.services, user_id, field).await?;
    }
    Ok(delete_profile_field::v3::Response::new())
}

/// Name and avatar stand in the user's memberships as well.
async fn tell_rooms(services: &Services, user_id: &UserId, field: &str) -> Result<(), Error> {
    if matches!(field, "displayname" | "avatar_url") {
        services.rooms.update_profile(user_id).await?;
    }
    Ok(())
}
