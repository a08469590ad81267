//! Reading the directory of one peer: from where it was left, page by page, until the peer says that there is no more.

use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use model::{
    Millis,
    peer::{Capability, Context},
};
use peers::{PeerError, Scope};
use rand::RngExt as _;
use ruma::{OwnedServerName, ServerName, UserId};
use store::{
    Write,
    cascade::{self as rows, PeerRow},
    duties::Duty,
};
use tracing::{debug, info, warn};
use url::form_urlencoded;

use super::{
    Cascade, PATH,
    judge::{Fault, Taken, check, judge},
    page::RawPage,
};
use crate::now;

/// No page is longer, in bytes.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// How long one peer is read before it is another's turn.
const A_TURN: Duration = Duration::from_secs(60);
/// After how long a peer that was asked in vain is asked again, at first …
const SOONEST: Millis = 2_000;
/// … and at most, or as seldom as any peer is asked.
const LATEST: Millis = 60 * 60_000;
/// No word of what went wrong is longer, in characters.
const MAX_TROUBLE: usize = 500;

/// Why a peer could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("what {0} tells of its people is of no use: {1}")]
    Fault(OwnedServerName, Fault),
    #[error("the store failed")]
    Store(#[from] store::Error),
}

impl PullError {
    fn word(&self) -> &'static str {
        match self {
            Self::Peer(error) => error.failure().word(),
            Self::Fault(_, fault) => fault.word(),
            Self::Store(_) => "store",
        }
    }
}

/// How far a turn came.
enum Turn {
    /// There is no more.
    Whole,
    /// There is more, and others wait.
    Later,
    /// It is no longer this node's to do, or the peer is no longer to be asked.
    Over,
}

/// What a duty of this node is called.
pub(super) fn duty_name(server: &ServerName) -> String {
    format!("cascade/{server}")
}

impl Cascade {
    /// Reads on in the directory of `server`, and notes what came of it.
    pub(super) async fn pull(&self, server: &ServerName) -> Result<(), store::Error> {
        let began = Instant::now();
        let outcome = match self.read_on(server).await {
            Ok(Turn::Over) | Err(PullError::Store(store::Error::Superseded)) => return Ok(()),
            Ok(Turn::Whole | Turn::Later) => "ok",
            Err(error) => {
                self.note(server, &error).await?;
                error.word()
            }
        };
        counter!("comity_cascade_pulls_total", "outcome" => outcome).increment(1);
        histogram!("comity_cascade_pull_seconds").record(began.elapsed().as_secs_f64());
        Ok(())
    }

    async fn read_on(&self, server: &ServerName) -> Result<Turn, PullError> {
        let (shared, began) = (&self.shared, Instant::now());
        loop {
            let Some(duty) = shared.store.duties().of(&duty_name(server)) else { return Ok(Turn::Over) };
            if !shared.peers.trust().is_cascade_peer(server) {
                return Ok(Turn::Over);
            }
            let row = shared.store.cascade().peer(server).await?;
            let row = row.unwrap_or_else(|| PeerRow::new(server.to_owned(), now()));
            if row.swept < row.whole {
                self.sweep(duty, row).await?;
                continue;
            }
            let page = self.ask(server, row.token.as_deref()).await?;
            let has_more = page.more;
            if !self.take(duty, row, page).await? {
                return Ok(Turn::Over);
            }
            match has_more {
                false => return Ok(Turn::Whole),
                true if began.elapsed() > A_TURN => return Ok(Turn::Later),
                true => {}
            }
        }
    }

    async fn ask(&self, server: &ServerName, since: Option<&str>) -> Result<RawPage, PullError> {
        let (peers, limit) = (&self.shared.peers, self.shared.config.page);
        let allowed = peers.trust().allow(server, Capability::Broadcasts, &Context::outbound());
        allowed.map_err(PeerError::Trust)?;
        let since_then = since.map(|since| form_urlencoded::byte_serialize(since.as_bytes()).collect::<String>());
        let since_then = since_then.map(|since| format!("&since={since}")).unwrap_or_default();
        let uri = format!("{PATH}?limit={limit}{since_then}");
        let us = peers.server_name().as_str();
        let page: RawPage = peers.get_native_up_to(MAX_PAGE_BYTES, server, uri, us, Scope::Cascade).await?;
        check(server, &page, since, limit).map_err(|fault| PullError::Fault(server.to_owned(), fault))?;
        Ok(page)
    }

    /// Takes a page, and where it ends, in one Write. False: it is no longer this node's to do.
    async fn take(&self, duty: Duty, mut row: PeerRow, page: RawPage) -> Result<bool, PullError> {
        let (shared, server, now) = (&self.shared, row.server.clone(), now());
        let fault = |fault| PullError::Fault(server.clone(), fault);
        let since = row.token.clone();
        let (count, has_more) = (i64::try_from(page.len()).unwrap_or(i64::MAX), page.more);
        let most = shared.config.max_entries;
        row.walked = if row.walk == 0 { count } else { row.walked + count };
        if row.walked > 2 * i64::from(most) + i64::from(shared.config.page) {
            return Err(fault(Fault::Endless));
        }
        let [people, _, units] = shared.store.cascade().counts(&server).await?;
        let is_new = page.users.len() + page.units.len();
        // Of those that are told again it isn't known here how many there are: it is a bound, not a count.
        if is_new > 0 && people + units >= i64::from(most) && self.has_strangers(&server, &page).await? {
            return Err(fault(Fault::TooMany(most)));
        }
        if page.from_start || row.token.is_none() {
            row.walk += 1;
        }
        row.token = Some(page.next.clone());
        let taken = judge(&server, page, now);
        row.refused += taken.refused;
        (row.asked_at, row.failures, row.trouble) = (Some(now), 0, None);
        row.next_at = now;
        if !has_more {
            (row.whole, row.walked, row.told_at, row.next_at) = (row.walk, 0, Some(now), now + self.pause());
        }
        let mut write = Write::new();
        write.on_duty(duty);
        self.add(&mut write, &row, &taken).await?;
        rows::put_peer(&mut write, &row, since.as_deref());
        match shared.store.commit(write).await {
            Ok(_) => {}
            Err(store::Error::Superseded) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        count_taken(&server, &taken);
        if !has_more && row.swept < row.whole {
            info!(server.name = %server, "{server} has told of all its people");
            self.sweep(duty, row).await?;
        }
        Ok(true)
    }

    /// Whether a page tells of somebody, or of a unit, that isn't known.
    async fn has_strangers(&self, server: &ServerName, page: &RawPage) -> Result<bool, store::Error> {
        let ids = page.users.iter().filter_map(|user| <&UserId>::try_from(user.get("user_id")?.as_str()?).ok());
        let ids: Vec<&UserId> = ids.filter(|user_id| user_id.server_name() == server).collect();
        let known = self.shared.store.cascade().people(&ids).await?;
        Ok(!page.units.is_empty() || ids.iter().any(|user_id| !known.contains_key(*user_id)))
    }

    async fn add(&self, write: &mut Write, row: &PeerRow, taken: &Taken) -> Result<(), store::Error> {
        let ids: Vec<&UserId> = taken.people.iter().map(|(person, _)| &*person.user_id).collect();
        // Most have none yet, or will have none: those cost no statement.
        let with_phones = self.shared.store.sip_phones().of_elsewhere(&ids).await?;
        let mut before = None;
        for phone in &with_phones {
            if before.replace(&phone.user_id) != Some(&phone.user_id) {
                rows::remove_phones(write, &phone.user_id);
            }
        }
        for (person, phones) in &taken.people {
            rows::put_person(write, row.walk, person);
            phones.iter().for_each(|phone| rows::put_phone(write, row.walk, phone));
        }
        taken.units.iter().for_each(|unit| rows::put_unit(write, row.walk, &row.server, unit));
        taken.gone.iter().for_each(|user_id| rows::remove_person(write, user_id));
        taken.gone_units.iter().for_each(|unit_id| rows::remove_unit(write, &row.server, unit_id));
        Ok(())
    }

    /// Removes what the last walk that came to the end has not told of, a part at a time.
    async fn sweep(&self, duty: Duty, mut row: PeerRow) -> Result<(), store::Error> {
        let store = &self.shared.store;
        while store.cascade().has_older(&row.server, row.whole).await? {
            let mut write = Write::new();
            write.on_duty(duty);
            rows::sweep(&mut write, &row.server, row.whole);
            store.commit(write).await?;
        }
        row.swept = row.whole;
        let mut write = Write::new();
        write.on_duty(duty);
        rows::put_peer(&mut write, &row, row.token.as_deref());
        store.commit(write).await.map(drop)
    }

    /// Forgets everything that a peer told, a part at a time; that there was something, last.
    pub(super) async fn purge(&self, server: &ServerName) -> Result<(), store::Error> {
        let store = &self.shared.store;
        let Some(duty) = store.duties().of(&duty_name(server)) else { return Ok(()) };
        // From here on it is of no use to anybody, also should the peer become full again meanwhile.
        let mut write = Write::new();
        write.on_duty(duty);
        rows::reset_peer(&mut write, server);
        store.commit(write).await?;
        while store.cascade().has_older(server, i64::MAX).await? {
            let mut write = Write::new();
            write.on_duty(duty);
            rows::sweep(&mut write, server, i64::MAX);
            store.commit(write).await?;
        }
        let mut write = Write::new();
        write.on_duty(duty);
        rows::remove_peer(&mut write, server);
        store.commit(write).await?;
        counter!("comity_cascade_purges_total").increment(1);
        info!(server.name = %server, "forgot what {server} told of its people: it isn't a full peer any more");
        Ok(())
    }

    /// A peer was asked in vain: it is asked again later, and each time later.
    async fn note(&self, server: &ServerName, error: &PullError) -> Result<(), store::Error> {
        let store = &self.shared.store;
        let Some(duty) = store.duties().of(&duty_name(server)) else { return Ok(()) };
        let row = store.cascade().peer(server).await?;
        let mut row = row.unwrap_or_else(|| PeerRow::new(server.to_owned(), now()));
        let since = row.token.clone();
        let trouble: String = error.to_string().chars().take(MAX_TROUBLE).collect();
        match row.trouble.as_ref() == Some(&trouble) {
            true => debug!(server.name = %server, "the people of {server} are not known: {error}"),
            false => warn!(server.name = %server, code = error.word(), "the people of {server} are not known: {error}"),
        }
        row.failures += 1;
        row.trouble = Some(trouble);
        row.asked_at = Some(now());
        row.next_at = now() + back_off(row.failures, self.pause());
        if let PullError::Fault(_, Fault::Endless | Fault::NoProgress) = error {
            // Nothing is to be hoped for where it has led so far.
            (row.token, row.walked) = (None, 0);
            row.next_at = now() + LATEST.max(self.pause());
        }
        let mut write = Write::new();
        write.on_duty(duty);
        rows::put_peer(&mut write, &row, since.as_deref());
        match store.commit(write).await {
            Err(store::Error::Superseded) => Ok(()),
            committed => committed.map(drop),
        }
    }

    /// How long a peer that has told everything is left alone, about.
    fn pause(&self) -> Millis {
        let interval = self.shared.config.interval.mul_f64(rand::rng().random_range(0.9..1.1));
        Millis::try_from(interval.as_millis()).unwrap_or(Millis::MAX / 4)
    }
}

/// How long a peer is left alone that was asked in vain so often; `usual`: how long any peer is.
fn back_off(failures: i64, usual: Millis) -> Millis {
    let doublings = u32::try_from(failures.clamp(1, 16) - 1).unwrap_or_default();
    let pause = (SOONEST << doublings).min(LATEST.max(usual));
    pause + rand::rng().random_range(0..=pause / 4)
}

fn count_taken(server: &ServerName, taken: &Taken) {
    let lengths = [
        ("person", taken.people.len()),
        ("unit", taken.units.len()),
        ("removal", taken.gone.len() + taken.gone_units.len()),
    ];
    for (kind, count) in lengths {
        counter!("comity_cascade_entries_total", "kind" => kind).increment(count as u64);
    }
    if taken.refused > 0 {
        counter!("comity_cascade_refused_entries_total").increment(taken.refused.unsigned_abs());
        warn!(server.name = %server, count = taken.refused, "{server} told of people who aren't its own, or what makes no sense");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_in_vain_is_asked_less_and_less_often() {
        assert!((SOONEST..=SOONEST * 5 / 4).contains(&back_off(1, 1)));
        assert!((SOONEST * 8..=SOONEST * 10).contains(&back_off(4, 1)));
        assert!(back_off(60, 1) <= LATEST * 5 / 4);
        assert!(back_off(60, 4 * LATEST) > 3 * LATEST);
    }
}
