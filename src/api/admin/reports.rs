//! What users have reported, and what comes of it.

use model::{Address, Millis};
use rooms::Decision;
use ruma::{EventId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::reports::{DecisionRow, NewReport, ReportRow};
use users::Restriction;
use utoipa::{IntoParams, ToSchema};

use super::{
    staff::{Admin, Viewer},
    why::author,
};
use crate::{
    Problem,
    native::{Answer, Call, Endpoint, Nothing, get, post},
};

/// How many an answer holds, and how many at most.
const USUAL: u32 = 50;
const MOST: u32 = 200;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/reports", "What users have reported.", list)
            .explained("Those that wait, the oldest first; or those that were decided, the latest first."),
        get("/api/v1/admin/reports/{number}", "A report, with the event that it is about.", one),
        post("/api/v1/admin/reports/{number}/decide", "Says what comes of a report, and does it.", decide).explained(
            "`redact` takes the reported event back, in the name of somebody of this server who may; `suspend` suspends the \
             reported user, if it is one of this server. What can't be done is refused, and the report waits.",
        ),
    ]
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WantedReports {
    #[default]
    Open,
    Decided,
}

/// Which reports.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReportsWanted {
    /// `open` or `decided`; left out: `open`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    state: WantedReports,
    /// `next` of the page before.
    cursor: Option<i64>,
    /// How many at most, 1 to 200; left out: 50.
    limit: Option<u32>,
}

/// What came of a report.
#[derive(Serialize, ToSchema)]
#[schema(as = ReportDecision)]
struct DecisionView {
    /// `dismissed` or `acted`.
    decision: String,
    /// What who decided says.
    note: String,
    /// Who decided.
    decided_by: String,
    /// When, milliseconds since 1970.
    decided_at: Millis,
}

/// A report.
#[derive(Serialize, ToSchema)]
#[schema(as = Report)]
struct ReportView {
    /// From 1 on, in the order in which they came.
    number: i64,
    /// Who reports.
    reporter: String,
    /// What is reported: `event`, `room` or `user`.
    kind: String,
    /// The room, or that of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<String>,
    /// The event.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    /// The user, or who made the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    /// The same as people spell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    address: Option<Address>,
    /// Why.
    reason: String,
    /// When, milliseconds since 1970.
    reported_at: Millis,
    /// What came of it; absent: it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<DecisionView>,
}

impl From<ReportRow> for ReportView {
    fn from(row: ReportRow) -> Self {
        let ReportRow { nid, report, decision } = row;
        let NewReport { reporter, kind, room_id, event_id, user_id, reason, reported_at } = report;
        let decision = decision.map(|decision| {
            let DecisionRow { decision, note, decided_by, decided_at } = decision;
            DecisionView { decision, note, decided_by, decided_at }
        });
        let address = user_id.as_deref().and_then(|user_id| UserId::parse(user_id).ok()).map(Address::from);
        let (conversation_id, message_id) = (room_id, event_id);
        Self {
            number: nid,
            reporter,
            kind,
            conversation_id,
            message_id,
            user_id,
            address,
            reason,
            reported_at,
            decision,
        }
    }
}

/// Some reports.
#[derive(Serialize, ToSchema)]
#[schema(as = Reports)]
struct ReportsView {
    /// In the order that was asked for.
    reports: Vec<ReportView>,
    /// What `cursor` is on the next page; absent: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// The event that a report is about, as it is now.
#[derive(Serialize, ToSchema)]
struct ReportedEvent {
    /// `m.room.message` …
    #[serde(rename = "type")]
    kind: String,
    /// What it says; empty where it was taken back. What is encrypted nobody here can read.
    #[schema(value_type = Object)]
    content: Value,
    /// When its maker says that it was made, milliseconds since 1970.
    sent_at: Millis,
    /// Whether it was taken back.
    is_redacted: bool,
}

/// A report, with what it is about.
#[derive(Serialize, ToSchema)]
struct ReportDetails {
    #[serde(flatten)]
    report: ReportView,
    /// The event.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<ReportedEvent>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WantedDecision {
    Dismissed,
    Acted,
}

/// What is to come of a report.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReportDecisionWish)]
struct DecisionWish {
    /// `dismissed` or `acted`.
    #[schema(value_type = String)]
    decision: WantedDecision,
    /// For other admins, and for the log.
    note: String,
    /// Take the event back.
    #[serde(default)]
    redact: bool,
    /// Suspend the user.
    #[serde(default)]
    suspend: bool,
}

async fn list(call: Call<Viewer, ReportsWanted>) -> Answer<ReportsView> {
    let ReportsWanted { state, cursor, limit } = call.query;
    let limit = limit.unwrap_or(USUAL).clamp(1, MOST);
    let found = call.services.rooms.reports(state == WantedReports::Decided, cursor, limit).await?;
    let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.nid)).flatten();
    Ok(ReportsView { reports: found.into_iter().map(Into::into).collect(), next })
}

async fn one(call: Call<Viewer>) -> Answer<ReportDetails> {
    let row = call.services.rooms.get_report(call.argument("number")?).await?;
    let event = call.services.rooms.reported_event(&row.report).await?;
    let event = event.map(|event| ReportedEvent {
        kind: event.pdu.kind.to_string(),
        content: event.pdu.content_as().unwrap_or_default(),
        sent_at: event.pdu.origin_server_ts.get().into(),
        is_redacted: event.redacted_by.is_some(),
    });
    Ok(ReportDetails { report: row.into(), event })
}

async fn decide(call: Call<Admin, Nothing, DecisionWish>) -> Answer<ReportView> {
    let number: i64 = call.argument("number")?;
    let DecisionWish { decision, note, redact, suspend } = call.body;
    let (rooms, users) = (&call.services.rooms, &call.services.users);
    let report = rooms.waiting_report(number).await?.report;
    let author = author(&call.caller, note);
    if matches!(decision, WantedDecision::Dismissed) && (redact || suspend) {
        return Err(Problem::invalid("what is dismissed has nothing done about it: say `acted`"));
    }
    let event_id = report.event_id.as_deref().and_then(|id| EventId::parse(id).ok());
    let user_id: Option<OwnedUserId> = report.user_id.as_deref().and_then(|id| UserId::parse(id).ok());
    if redact {
        let nothing = || Problem::invalid("this report is about no event").with("field", "redact");
        rooms.redact_by(&event_id.ok_or_else(nothing)?, &author).await?;
    }
    if suspend {
        let nobody = || Problem::invalid("this report is about no user of this server").with("field", "suspend");
        let user_id = user_id.filter(|user_id| users.is_ours(user_id)).ok_or_else(nobody)?;
        users.restrict(&user_id, Restriction::Suspended(true), &author).await?;
    }
    let decision = match decision {
        WantedDecision::Dismissed => Decision::Dismissed,
        WantedDecision::Acted => Decision::Acted,
    };
    Ok(rooms.decide_report(number, decision, &author).await?.into())
}
