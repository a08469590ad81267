//! What users report to those who run this server, and what comes of it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#reporting-content>

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use model::{Kind, Refusal, TimelineEvent};
use peers::trust::{Audited, Author, ChangeError};
use ruma::{
    EventId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::json;
use store::{
    Write,
    reports::{self, DecisionRow, NewReport, ReportRow},
};
use tracing::{info, warn};

use crate::{RoomError, Rooms, live::SharedRoom, millis, now};

/// No longer reason is taken, in letters.
const LONGEST_REASON: usize = 2_000;
/// So many reports of one user are taken in a day.
const MOST_IN_A_DAY: i64 = 100;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a report is tried to be written because another took its number.
const TRIES: u32 = 8;

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub enum ReportTarget<'a> {
    /// A room. Who reports it needs not be in it.
    Room(&'a RoomId),
    /// An event that the reporter can see.
    Event(&'a RoomId, &'a EventId),
    /// A user of any server.
    User(&'a UserId),
}

/// What comes of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is nothing to do.
    Dismissed,
    /// Something was done.
    Acted,
}

impl Decision {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dismissed => "dismissed",
            Self::Acted => "acted",
        }
    }
}

/// Why a report was not taken, or not decided.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no such thing, or it isn't for the reporter to know.
    #[error("there is nothing like this that you can see")]
    NotFound,
    /// There is no such report.
    #[error("there is no such report")]
    NoReport,
    /// Somebody else decided it.
    #[error("{by} has decided this already")]
    Decided {
        /// Who.
        by: String,
    },
    /// The reason is too long.
    #[error("`reason` is longer than {LONGEST_REASON} letters")]
    TooLong,
    /// Too many of one user.
    #[error("you have reported {MOST_IN_A_DAY} times within a day; wait until tomorrow")]
    TooMany,
    /// The room could not be looked at.
    #[error(transparent)]
    Room(RoomError),
    /// It could not be written down.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store failed.
    #[error("the report could not be read or written")]
    Store(#[from] store::Error),
}

impl Refusal for ReportError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound | Self::NoReport => Kind::NotFound,
            Self::Decided { .. } => Kind::Conflict,
            Self::TooLong => Kind::Invalid,
            Self::TooMany => Kind::RateLimited,
            Self::Room(error) => error.kind(),
            Self::Change(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> Option<&'static str> {
        matches!(self, Self::Decided { .. }).then_some("decided_already")
    }

    fn retry_after_ms(&self) -> Option<u64> {
        matches!(self, Self::TooMany).then_some(60 * 60_000)
    }
}

/// What one can't see isn't there.
impl From<RoomError> for ReportError {
    fn from(error: RoomError) -> Self {
        match error.kind() {
            Kind::NotFound | Kind::Forbidden => Self::NotFound,
            _ => Self::Room(error),
        }
    }
}

impl Rooms {
    /// Takes a report. It waits until an administrator decides what comes of it.
    pub async fn report(&self, reporter: &UserId, target: ReportTarget<'_>, reason: &str) -> Result<(), ReportError> {
        if reason.chars().count() > LONGEST_REASON {
            return Err(ReportError::TooLong);
        }
        let now = now();
        let since = now - millis(DAY);
        if self.shared.store.reports().count_of(reporter, since).await? >= MOST_IN_A_DAY {
            return Err(ReportError::TooMany);
        }
        let mut report = NewReport {
            reporter: reporter.to_string(),
            kind: String::new(),
            room_id: None,
            event_id: None,
            user_id: None,
            reason: reason.to_owned(),
            reported_at: now,
        };
        match target {
            ReportTarget::Room(room_id) => {
                let room = self.get(room_id).await?;
                (report.kind, report.room_id) = ("room".to_owned(), Some(room.room_id.to_string()));
            }
            ReportTarget::Event(room_id, event_id) => {
                let room = self.get(room_id).await?;
                self.check_joined(&room, reporter).await?;
                let mut sight = self.sight(&room, reporter).await?;
                let event = self.find_event(&mut sight, event_id).await?;
                (report.kind, report.room_id) = ("event".to_owned(), Some(room_id.to_string()));
                (report.event_id, report.user_id) = (Some(event_id.to_string()), Some(event.pdu.sender.to_string()));
            }
            ReportTarget::User(user_id) => {
                let is_ours = user_id.server_name() == self.server_name();
                if is_ours && self.shared.store.accounts().find(user_id).await?.is_none() {
                    return Err(ReportError::NotFound);
                }
                (report.kind, report.user_id) = ("user".to_owned(), Some(user_id.to_string()));
            }
        }
        self.write_report(&report).await?;
        info!(user.id = %reporter, kind = report.kind, "{reporter} has reported something");
        Ok(())
    }

    /// Brings something before moderators that the server's own rules have marked: whose it is, and why. The report is the server's.
    pub(crate) async fn report_marked(&self, room_id: &RoomId, event_id: &EventId, sender: &UserId, reason: String) {
        let report = NewReport {
            reporter: self.server_name().to_string(),
            kind: "event".to_owned(),
            room_id: Some(room_id.to_string()),
            event_id: Some(event_id.to_string()),
            user_id: Some(sender.to_string()),
            reason,
            reported_at: now(),
        };
        if let Err(error) = self.write_report(&report).await {
            let error = &error as &dyn std::error::Error;
            warn!(error, room.id = %room_id, event.id = %event_id, "what was marked could not be brought before moderators");
        }
    }

    async fn write_report(&self, report: &NewReport) -> Result<(), store::Error> {
        for _ in 0..TRIES {
            let mut write = Write::new();
            reports::insert(&mut write, report);
            match self.shared.store.commit(write).await {
                Err(store::Error::Duplicate) => {}
                other => return other.map(drop),
            }
        }
        Err(store::Error::Conflict)
    }

    /// Up to `limit` reports that wait, the oldest first, those after number `after`; or those that were decided, the latest first,
    /// those before that number.
    pub async fn reports(
        &self,
        is_decided: bool,
        from: Option<i64>,
        limit: u32,
    ) -> Result<Vec<ReportRow>, ReportError> {
        let reports = self.shared.store.reports();
        Ok(match is_decided {
            false => reports.waiting(from.unwrap_or(0), limit).await?,
            true => reports.decided(from.unwrap_or(i64::MAX), limit).await?,
        })
    }

    /// One report.
    pub async fn get_report(&self, number: i64) -> Result<ReportRow, ReportError> {
        self.shared.store.reports().find(number).await?.ok_or(ReportError::NoReport)
    }

    /// The event that a report is about, as it is now, if this server still has it.
    pub async fn reported_event(&self, report: &NewReport) -> Result<Option<Arc<TimelineEvent>>, ReportError> {
        let Some(event_id) = report.event_id.as_deref().and_then(|id| EventId::parse(id).ok()) else { return Ok(None) };
        Ok(self.shared.store.events().find(&event_id).await?)
    }

    /// As [`Self::get_report`], for one that waits.
    pub async fn waiting_report(&self, number: i64) -> Result<ReportRow, ReportError> {
        let row = self.get_report(number).await?;
        match row.decision {
            Some(decision) => Err(ReportError::Decided { by: decision.decided_by }),
            None => Ok(row),
        }
    }

    /// Writes down what comes of a report. `author`'s reason is what others read of it.
    pub async fn decide_report(
        &self,
        number: i64,
        decision: Decision,
        author: &Author,
    ) -> Result<ReportRow, ReportError> {
        let step = |_| {
            async move {
                let row = self.waiting_report(number).await?;
                let decided = DecisionRow {
                    decision: decision.as_str().to_owned(),
                    note: author.reason.clone(),
                    decided_by: author.actor.clone(),
                    decided_at: now(),
                };
                let mut write = Write::new();
                reports::decide(&mut write, number, &decided);
                let NewReport { kind, room_id, event_id, user_id, .. } = &row.report;
                let before = json!({ "kind": kind, "room_id": room_id, "event_id": event_id, "user_id": user_id });
                let (before, after) =
                    (Some(before.to_string()), Some(json!({ "decision": decision.as_str() }).to_string()));
                let outcome = ReportRow { decision: Some(decided), ..row };
                Ok::<_, ReportError>(Audited { write, before, after, outcome })
            }
            .boxed()
        };
        let row = self.trust().audited("report.decided", &format!("report {number}"), author, step).await?;
        info!(actor = author.actor, decision = decision.as_str(), "report {number} was decided");
        Ok(row)
    }

    /// Redacts an event on behalf of those who run this server, in the name of somebody here who may: its maker, or a moderator of its
    /// room. It is in the audit log.
    ///
    /// Errors: `Forbidden` where nobody of this server may.
    pub async fn redact_by(&self, event_id: &EventId, author: &Author) -> Result<(), RoomError> {
        let event = self.shared.store.events().find(event_id).await?.ok_or(RoomError::UnknownEvent)?;
        if event.redacted_by.is_some() {
            return Ok(());
        }
        let room = self.get(&event.pdu.room_id).await?;
        let sender = self
            .who_may_redact(&room, &event.pdu.sender)
            .await?
            .ok_or_else(|| RoomError::Forbidden("nobody of this server who is in the room may redact this".into()))?;
        let after = json!({ "room_id": event.pdu.room_id, "in_the_name_of": sender }).to_string();
        let trust = self.trust();
        trust.note_act("event.redacted", event_id.as_str(), author, Some(after)).await.map_err(
            |error| match error {
                ChangeError::Store(error) => RoomError::Store(error),
                error => RoomError::Invalid(error.to_string()),
            },
        )?;
        self.take_back(&room, &event, &sender, Some(&author.reason)).await
    }

    /// Somebody of this server who may redact what `maker` said in the room.
    async fn who_may_redact(&self, room: &SharedRoom, maker: &UserId) -> Result<Option<OwnedUserId>, RoomError> {
        let power_levels = self.power_levels(room).await?;
        let creator = self.state_event(room, StateEventType::RoomCreate, "").await?;
        let mut named: Vec<OwnedUserId> = power_levels.users.keys().cloned().collect();
        named.extend(creator.map(|event| event.pdu.sender.clone()));
        named.retain(|user_id| power_levels.user_can_redact_event_of_other(user_id));
        if power_levels.user_can_redact_own_event(maker) {
            named.insert(0, maker.to_owned());
        }
        for user_id in named.into_iter().filter(|user_id| user_id.server_name() == self.server_name()) {
            if self.membership(room, &user_id).await? == Some(MembershipState::Join) {
                return Ok(Some(user_id));
            }
        }
        Ok(None)
    }
}
