//! One open WebSocket: a single task that reads, writes and waits.

mod hear;

use std::{collections::VecDeque, future::Future, net::IpAddr, pin::Pin, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use metrics::{counter, histogram};
use model::{Position, Refusal as _};
use sync::feed::{Connection, Feed, FeedRequest, Item, News, Start, Word};
use tokio::time::Instant;
use tracing::debug;

use super::{
    RealtimeConfig,
    close::Closing,
    frame::{Frame, now},
    line::Line,
    pace::Pace,
};
use crate::{Session, SharedServices};

/// How many things are read from the feed at once: what is read and not yet written is in memory.
const PIECE: usize = 64;
/// How long what a client asked for may take.
const ACT: Duration = Duration::from_secs(60);
/// How often it is looked up whether the session goes on, where nobody tells: a command on the machine may have ended it.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// What a WebSocket was opened with.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) connection: Connection,
    pub(super) services: SharedServices,
    pub(super) address: IpAddr,
    pub(super) resume: Option<String>,
}

/// Talks with the client until either has enough.
pub(super) async fn serve(web: WebSocket, opened: Opened) {
    // Boxed, so that the task that axum has made of this holds it once.
    Box::pin(talk(web, opened)).await;
}

async fn talk(web: WebSocket, opened: Opened) {
    let Opened { session, connection, services, address, resume } = opened;
    connection.say().await;
    let request = FeedRequest {
        user_id: session.user_id.clone(),
        device_id: session.device_id.to_string(),
        resume,
        most_missed: services.config.realtime.most_missed,
    };
    let mut line = Line { web, stall: services.config.realtime.stall };
    let why = match Box::pin(services.sync.feed(request)).await {
        Ok((feed, start)) => {
            let mut socket = Socket::new(&mut line, feed, &connection, session, services, address);
            socket.run(start).await
        }
        Err(error) => {
            debug!(error = &error as &dyn std::error::Error, "could not begin a feed");
            Closing::Unavailable
        }
    };
    // Whoever is told to go may come back at once, and finds the place free.
    connection.leave().await;
    counter!("comity_realtime_closed_total", "reason" => why.reason()).increment(1);
    line.close(why).await;
}

/// What is being done for the client, and what it will be answered.
type Acting = Pin<Box<dyn Future<Output = Option<Frame>> + Send>>;

/// Waits for what is being done.
async fn answer_of(acting: &mut Option<Acting>) -> Option<Frame> {
    match acting {
        Some(acting) => acting.await,
        None => std::future::pending().await,
    }
}

struct Socket<'a> {
    line: &'a mut Line,
    feed: Feed,
    connection: &'a Connection,
    session: Session,
    services: SharedServices,
    address: IpAddr,
    /// The frames that the client has not acknowledged: from where it goes on when it has them.
    unacknowledged: VecDeque<Position>,
    /// Since when there are as many as there may be.
    full_since: Option<Instant>,
    /// What the client was told last that it can go on from.
    told: Position,
    /// One thing at a time, so that messages keep their order. Meanwhile the client isn't listened to.
    acting: Option<Acting>,
    pace: Pace,
    next_beat: Instant,
    /// Whether the client was heard of since the last beat.
    is_heard: bool,
    checked_at: Instant,
}

impl<'a> Socket<'a> {
    fn new(
        line: &'a mut Line,
        feed: Feed,
        connection: &'a Connection,
        session: Session,
        services: SharedServices,
        address: IpAddr,
    ) -> Self {
        let config = &services.config.realtime;
        let now = Instant::now();
        Self {
            line,
            told: feed.position().position,
            feed,
            connection,
            session,
            address,
            unacknowledged: VecDeque::new(),
            full_since: None,
            acting: None,
            pace: Pace::new(config.frame_period, config.frames_at_once),
            next_beat: now + config.heartbeat,
            is_heard: true,
            checked_at: now,
            services,
        }
    }

    fn config(&self) -> &RealtimeConfig {
        &self.services.config.realtime
    }

    async fn run(&mut self, start: Start) -> Closing {
        match self.talk(start).await {
            Ok(never) => match never {},
            Err(why) => why,
        }
    }

    async fn talk(&mut self, start: Start) -> Result<std::convert::Infallible, Closing> {
        self.greet(start).await?;
        loop {
            let may_push = self.unacknowledged.len() < self.config().window;
            let next_tick = self.next_tick();
            tokio::select! {
                biased;
                word = self.connection.told() => self.heed(word).await?,
                () = tokio::time::sleep_until(next_tick) => self.tick().await?,
                () = self.feed.changed(), if may_push => Box::pin(self.push()).await?,
                answer = answer_of(&mut self.acting), if self.acting.is_some() => {
                    self.acting = None;
                    if let Some(frame) = answer {
                        self.line.send(frame).await?;
                        self.line.flush().await?;
                    }
                }
                heard = self.line.web.recv(), if self.acting.is_none() => self.hear(heard).await?,
            }
        }
    }

    async fn greet(&mut self, start: Start) -> Result<(), Closing> {
        let position = self.feed.position();
        let hello = Frame::hello(&self.session, position, start == Start::Resumed, self.config());
        self.line.send(hello).await?;
        if let Start::Reset(why) = start {
            self.line.send(Frame::reset(position, why)).await?;
        }
        self.line.flush().await
    }

    async fn heed(&mut self, word: Word) -> Result<(), Closing> {
        match word {
            Word::Check => self.check().await,
            Word::End(ending) => Err(ending.into()),
        }
    }

    /// Whether the session goes on.
    async fn check(&mut self) -> Result<(), Closing> {
        self.checked_at = Instant::now();
        match self.services.users.goes_on(&self.session).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Closing::SessionEnded),
            // Who can't find out doesn't go on as if it were so; the client comes back.
            Err(_) => Err(Closing::Unavailable),
        }
    }

    // === time ===

    fn next_tick(&self) -> Instant {
        let stalled = self.full_since.map(|since| since + self.config().stall);
        stalled.map_or(self.next_beat, |stalled| stalled.min(self.next_beat))
    }

    async fn tick(&mut self) -> Result<(), Closing> {
        let now = Instant::now();
        if self.full_since.is_some_and(|since| now >= since + self.config().stall) {
            return Err(Closing::Slow);
        }
        if now < self.next_beat {
            return Ok(());
        }
        // While something is done for the client it isn't listened to.
        if !self.is_heard && self.acting.is_none() {
            return Err(Closing::NoHeartbeat);
        }
        self.is_heard = false;
        self.next_beat = now + self.config().heartbeat;
        self.services.users.note_seen(&self.session, Some(self.address));
        if now >= self.checked_at + CHECK_EVERY {
            self.check().await?;
        }
        self.line.write(Message::Ping(Bytes::new())).await?;
        let position = self.feed.position();
        if position.position > self.told && self.unacknowledged.is_empty() {
            self.told = position.position;
            self.line.send(Frame::heartbeat(position)).await?;
        }
        self.line.flush().await
    }

    // === what the client is told ===

    async fn push(&mut self) -> Result<(), Closing> {
        let room = self.config().window.saturating_sub(self.unacknowledged.len());
        let items = match self.feed.read(room.min(PIECE)).await {
            Ok(items) => items,
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, kind = ?error.kind(), "could not read a feed");
                return Err(Closing::Unavailable);
            }
        };
        if items.is_empty() {
            return Ok(());
        }
        for item in &items {
            if matches!(item.news, News::OwnDevices) {
                self.check().await?;
                continue;
            }
            let Some(frame) = Frame::news(item, self.services.peers.server_name()) else { continue };
            note_lag(item);
            self.line.send(frame).await?;
            self.told = item.position;
            self.unacknowledged.push_back(item.position);
        }
        if self.unacknowledged.len() >= self.config().window {
            self.full_since.get_or_insert_with(Instant::now);
        }
        self.line.flush().await
    }

    fn acknowledge(&mut self, upto: Position) {
        self.feed.acknowledge(upto);
        while self.unacknowledged.front().is_some_and(|position| *position <= upto) {
            self.unacknowledged.pop_front();
        }
        if self.unacknowledged.len() < self.config().window {
            self.full_since = None;
        }
        if self.unacknowledged.is_empty() {
            // What a long catching-up took is given back.
            self.unacknowledged = VecDeque::new();
        }
    }
}

/// How long it took from a message's sending until it is written here. Of other servers' messages, what their clocks say.
fn note_lag(item: &Item) {
    if let News::Event { shown, .. } = &item.news {
        let lag = now() - i64::from(shown.event.pdu.origin_server_ts.get());
        histogram!("comity_realtime_lag_seconds").record(lag.max(0) as f64 / 1000.0);
    }
}
