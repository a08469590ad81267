//! Looking for people.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#user-directory>

use ruma::api::client::user_directory::search_users;

use crate::{Answer, Ask, Route, endpoint};

const LONGEST_LIST: usize = 50;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(search)]
}

async fn search(ask: Ask<search_users::v3::Request>) -> Answer<search_users::v3::Response> {
    let limit = usize::try_from(u64::from(ask.request.limit)).unwrap_or(usize::MAX).clamp(1, LONGEST_LIST);
    let found = ask.services.users.search(&ask.session.user_id, &ask.request.search_term, limit).await?;
    let results = found.people.into_iter().map(|person| {
        let mut user = search_users::v3::User::new(person.user_id);
        user.display_name = person.display_name;
        user.avatar_url = person.avatar_url.map(Into::into);
        user
    });
    Ok(search_users::v3::Response::new(results.collect(), found.is_limited))
}
