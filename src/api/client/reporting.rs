//! Reporting rooms, events and users to those who run this server.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#reporting-content>

use rooms::ReportTarget;
use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use crate::{Answer, Ask, Route, endpoint};

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    vec![endpoint(event), endpoint(room), endpoint(user)]
}

async fn event(ask: Ask<report_content::v3::Request>) -> Answer<report_content::v3::Response> {
    let report_content::v3::Request { room_id, event_id, reason, .. } = ask.request;
    let (reporter, target) = (&ask.session.user_id, ReportTarget::Event(&room_id, &event_id));
    ask.services.rooms.report(reporter, target, &reason.unwrap_or_default()).await?;
    Ok(report_content::v3::Response::new())
}

async fn room(ask: Ask<report_room::v3::Request>) -> Answer<report_room::v3::Response> {
    let report_room::v3::Request { room_id, reason, .. } = ask.request;
    ask.services.rooms.report(&ask.session.user_id, ReportTarget::Room(&room_id), &reason).await?;
    Ok(report_room::v3::Response::new())
}

async fn user(ask: Ask<report_user::v3::Request>) -> Answer<report_user::v3::Response> {
    let report_user::v3::Request { user_id, reason, .. } = ask.request;
    ask.services.rooms.report(&ask.session.user_id, ReportTarget::User(&user_id), &reason).await?;
    Ok(report_user::v3::Response::new())
}
