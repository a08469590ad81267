//! Files that the people of this server send.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

use std::{pin::pin, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use metrics::counter;
use model::{
    Millis,
    gate::{Act, Proposal},
};
use rand::Rng as _;
use ruma::UserId;
use serde_json::{json, value::to_raw_value};
use store::{
    Write,
    media::{self as rows, ContentRow},
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    Media, MediaError, Mxc,
    content_type::{normalised, safe_file_name},
    files::{Draft, Written},
};

/// However steadily it comes, an upload ends.
pub(crate) const LONGEST_UPLOAD: Duration = Duration::from_hours(1);

/// How long a name waits for its content. The specification suggests a day.
pub(crate) const NAME_LIFETIME: Millis = 24 * 60 * 60 * 1000;

/// How many names of one user may wait at once: an album, twice.
pub(crate) const MOST_AWAITED: i64 = 100;

/// What its uploader says of a file.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// What it is.
    pub content_type: Option<String>,
    /// What it is called.
    pub file_name: Option<String>,
}

/// A name that waits for its content.
#[derive(Clone, Debug)]
pub struct Reserved {
    /// The name.
    pub mxc: Mxc,
    /// Until when, milliseconds since 1970.
    pub expires_at: Millis,
}

impl Media {
    /// Takes a file. It is durable before this returns.
    ///
    /// Errors: `TooLarge`, `QuotaExceeded`, `BrokenOff` and `TooSlow`, after which nothing of it is left.
    pub async fn upload<E>(
        &self,
        uploader: &UserId,
        described: Described,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Mxc, MediaError> {
        let content = self.take(uploader, described, body).await?;
        let mxc = Mxc::new(self.server_name(), new_id());
        let mut write = Write::new();
        rows::insert(&mut write, &mxc.server, &mxc.id, uploader, &content, self.now());
        self.shared.store.commit(write).await?;
        Ok(mxc)
    }

    /// Refuses a file that says that it will be too large, so that it isn't even begun.
    pub fn check_length(&self, length: u64) -> Result<(), MediaError> {
        let limit = self.config().max_upload;
        if length > limit { Err(MediaError::TooLarge { limit }) } else { Ok(()) }
    }

    /// Gives out a name that `uploader` fills later.
    pub async fn reserve(&self, uploader: &UserId) -> Result<Reserved, MediaError> {
        let now = self.now();
        self.check_awaited(uploader, now).await?;
        let reserved = Reserved { mxc: Mxc::new(self.server_name(), new_id()), expires_at: now + NAME_LIFETIME };
        let mut write = Write::new();
        rows::reserve(&mut write, &reserved.mxc.server, &reserved.mxc.id, uploader, now, reserved.expires_at);
        self.shared.store.commit(write).await?;
        Ok(reserved)
    }

    /// Fills a name that `uploader` was given, once.
    pub async fn fill<E>(
        &self,
        uploader: &UserId,
        mxc: &Mxc,
        described: Described,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<(), MediaError> {
        self.check_may_fill(uploader, mxc).await?;
        let content = self.take(uploader, described, body).await?;
        let mut write = Write::new();
        rows::fill(&mut write, &mxc.server, &mxc.id, &content);
        self.shared.store.commit(write).await?;
        // Of two who fill it at once, one was first.
        let stored = self.shared.store.media().find(&mxc.server, &mxc.id).await?;
        if stored.and_then(|row| row.content).is_none_or(|stored| stored.sha256 != content.sha256) {
            return Err(MediaError::Filled);
        }
        self.shared.filled.notify_waiters();
        Ok(())
    }

    async fn check_may_fill(&self, uploader: &UserId, mxc: &Mxc) -> Result<(), MediaError> {
        if mxc.server != self.server_name() {
            return Err(MediaError::NotYours);
        }
        let row = self.shared.store.media().find(&mxc.server, &mxc.id).await?.ok_or(MediaError::NotFound)?;
        if row.uploader.as_deref() != Some(uploader) {
            return Err(MediaError::NotYours);
        }
        if row.content.is_some() {
            return Err(MediaError::Filled);
        }
        if row.expires_at.is_some_and(|at| at <= self.now()) {
            return Err(MediaError::NotFound);
        }
        Ok(())
    }

    async fn take<E>(
        &self,
        uploader: &UserId,
        described: Described,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<ContentRow, MediaError> {
        let content_type = normalised(described.content_type.as_deref());
        self.check_declared(&content_type)?;
        self.check_quota(uploader, 0).await?;
        let mut draft = self.draft_of(body, self.config().max_upload).await?;
        self.check_quota(uploader, draft.size()).await?;
        self.inspect(uploader.as_str(), &content_type, &mut draft).await?;
        let file_name = described.file_name.as_deref();
        self.ask(uploader, draft.size(), draft.sha256(), &content_type, file_name).await?;
        let written = draft.keep(&self.shared.files).await?;
        counter!("comity_media_uploads_total").increment(1);
        counter!("comity_media_upload_bytes_total").increment(written.size);
        Ok(content_row(written, content_type, file_name))
    }

    /// Writes down what comes, `limit` bytes at most.
    pub(crate) async fn draft_of<E>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
        limit: u64,
    ) -> Result<Draft, MediaError> {
        let mut draft = self.shared.files.draft().await?;
        let mut body = pin!(self.in_time(body));
        while let Some(piece) = body.next().await {
            let piece = piece?;
            if draft.size() + piece.len() as u64 > limit {
                return Err(MediaError::TooLarge { limit });
            }
            draft.write(&piece).await?;
        }
        Ok(draft)
    }

    /// A body that must not pause for long, nor go on for ever.
    pub(crate) fn in_time<E>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> impl Stream<Item = Result<Bytes, MediaError>> + Send {
        let (idle, ends_at) = (self.config().idle_timeout, Instant::now() + LONGEST_UPLOAD);
        stream::unfold(Box::pin(body), move |mut body| async move {
            let next = timeout_at(ends_at, timeout(idle, body.next())).await;
            let piece = match next {
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(piece))) => piece.map_err(|_| MediaError::BrokenOff),
                Ok(Err(_)) | Err(_) => Err(MediaError::TooSlow),
            };
            Some((piece, body))
        })
    }

    /// Asks whoever is asked before a file is stored. What is refused must go.
    pub(crate) async fn ask(
        &self,
        uploader: &UserId,
        size: u64,
        sha256: String,
        content_type: &str,
        file_name: Option<&str>,
    ) -> Result<(), MediaError> {
        let Some(gate) = self.shared.gate.on(Act::Upload, uploader) else { return Ok(()) };
        let file_name = file_name.and_then(safe_file_name);
        let content = json!({ "content_type": content_type, "file_name": file_name, "size": size, "sha256": sha256 });
        let content = to_raw_value(&content).expect("JSON can be written as JSON");
        let proposal = Proposal {
            act: Act::Upload,
            sender: uploader,
            room_id: None,
            event: None,
            content: &content,
            may_become: None,
            is_approved: false,
        };
        gate.ask(proposal).await?;
        Ok(())
    }
}

pub(crate) fn content_row(written: Written, content_type: String, file_name: Option<&str>) -> ContentRow {
    ContentRow {
        sha256: written.sha256,
        size: i64::try_from(written.size).unwrap_or(i64::MAX),
        content_type,
        file_name: file_name.and_then(safe_file_name),
    }
}

/// 144 random bits: nobody guesses the name of a file.
pub(crate) fn new_id() -> String {
    let mut bytes = [0; 18];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}
