//! Files that somebody asks for.

use std::{pin::pin, time::Duration};

use model::{Millis, Refusal as _};
use ruma::{OwnedUserId, ServerName, UserId};
use store::{
    Write,
    media::{self as rows, ContentRow, MediaRow},
};
use tokio::time::{Instant, timeout_at};
use tracing::{error, warn};

use crate::{
    Item, Media, MediaError, Mxc,
    files::{Key, Source},
};

/// Nobody waits longer for a file that is still to be uploaded.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Another node may be the one that takes the upload: look again now and then.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// When somebody asked is written down once in that time.
const ACCESS_PRECISION: Millis = 60 * 60 * 1000;

/// How far one looks for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach<'a> {
    /// What this server's own people have uploaded.
    Ours,
    /// That, and what was fetched before.
    Kept,
    /// Everything: another server's file is fetched for this user, as far as that server is trusted.
    Everywhere(&'a UserId),
}

/// A file that somebody has uploaded.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// Its name.
    pub mxc: Mxc,
    /// When it got that, milliseconds since 1970.
    pub created_at: Millis,
    /// How many bytes it has.
    pub size: u64,
    /// What it is said to be.
    pub content_type: String,
    /// What it is called.
    pub file_name: Option<String>,
    /// The hash of its bytes, in hex.
    pub sha256: String,
}

/// What is known of a file, and the file itself.
pub(crate) type Opened = (ContentRow, Source);

impl Media {
    /// Opens what `mxc` names. Waits up to `wait`, at most a minute, for a file of ours that has only a name so far.
    pub async fn find(&self, mxc: &Mxc, reach: Reach<'_>, wait: Duration) -> Result<Item, MediaError> {
        let (content, source) = self.open_content(mxc, reach, wait).await?;
        let (size, tag) = (source.size(), content.sha256);
        Ok(Item { content_type: content.content_type, file_name: content.file_name, size, tag, source })
    }

    /// What somebody has uploaded, the latest first; after what `before` names by its time and id; at most `limit`.
    pub async fn uploaded(
        &self,
        uploader: &UserId,
        before: Option<(Millis, &str)>,
        limit: u32,
    ) -> Result<Vec<Uploaded>, MediaError> {
        let before = before.unwrap_or((Millis::MAX, ""));
        let rows = self.shared.store.media().uploaded(self.server_name(), uploader, before, limit).await?;
        let uploaded = rows.into_iter().map(|row| Uploaded {
            mxc: Mxc::new(self.server_name(), row.media_id),
            created_at: row.created_at,
            size: row.content.size.unsigned_abs(),
            content_type: row.content.content_type,
            file_name: row.content.file_name,
            sha256: row.content.sha256,
        });
        Ok(uploaded.collect())
    }

    /// Who of this server has uploaded a file.
    pub async fn uploader(&self, mxc: &Mxc) -> Result<Option<OwnedUserId>, MediaError> {
        let row = self.shared.store.media().find(&mxc.server, &mxc.id).await?;
        Ok(row.and_then(|row| row.uploader))
    }

    pub(crate) async fn open_content(&self, mxc: &Mxc, reach: Reach<'_>, wait: Duration) -> Result<Opened, MediaError> {
        if !mxc.is_valid() {
            return Err(MediaError::NotFound);
        }
        if mxc.server == self.server_name() {
            let content = self.await_content(mxc, wait).await?;
            return self.open_file(mxc, content).await?.ok_or(MediaError::NotFound);
        }
        if reach == Reach::Ours {
            return Err(MediaError::NotFound);
        }
        if let Some(opened) = self.open_kept(mxc).await? {
            return Ok(opened);
        }
        let Reach::Everywhere(asker) = reach else { return Err(MediaError::NotFound) };
        self.check_trust(asker, &mxc.server).await?;
        self.fetch(mxc).await?;
        self.open_kept(mxc).await?.ok_or(MediaError::NotFound)
    }

    /// Another server's file, if it was fetched before and isn't lost.
    pub(crate) async fn open_kept(&self, mxc: &Mxc) -> Result<Option<Opened>, MediaError> {
        match self.kept_content(mxc).await? {
            Some(content) => self.open_file(mxc, content).await,
            None => Ok(None),
        }
    }

    async fn open_file(&self, mxc: &Mxc, content: ContentRow) -> Result<Option<Opened>, MediaError> {
        let found = self.shared.files.find(&Key::content(&content.sha256)).await?;
        if found.is_none() {
            error!(mxc = %mxc.id, server.name = %mxc.server, "a file is missing in the media folder or bucket");
        }
        Ok(found.map(|source| (content, source)))
    }

    /// Refuses to fetch a file of `server` for `asker` if the server isn't trusted so far.
    async fn check_trust(&self, asker: &UserId, server: &ServerName) -> Result<(), MediaError> {
        let shares = self.shared.store.rooms().shares_a_room_with(asker, server).await?;
        Ok(self.shared.remote.check_trust(server, shares)?)
    }

    /// The content of a file of ours, once it has some.
    async fn await_content(&self, mxc: &Mxc, wait: Duration) -> Result<ContentRow, MediaError> {
        let ends_at = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            // Who listens before looking misses nothing.
            let mut filled = pin!(self.shared.filled.notified());
            filled.as_mut().enable();
            let row = self.shared.store.media().find(&mxc.server, &mxc.id).await?.ok_or(MediaError::NotFound)?;
            self.note_access(mxc, &row).await;
            if let Some(content) = row.content {
                return Ok(content);
            }
            if row.expires_at.is_some_and(|at| at <= self.now()) {
                return Err(MediaError::NotFound);
            }
            if Instant::now() >= ends_at {
                return Err(MediaError::NotYetUploaded);
            }
            let _ = timeout_at(ends_at.min(Instant::now() + LOOK_AGAIN), filled).await;
        }
    }

    async fn kept_content(&self, mxc: &Mxc) -> Result<Option<ContentRow>, MediaError> {
        let Some(row) = self.shared.store.media().find(&mxc.server, &mxc.id).await? else { return Ok(None) };
        self.note_access(mxc, &row).await;
        Ok(row.content)
    }

    async fn note_access(&self, mxc: &Mxc, row: &MediaRow) {
        let now = self.now();
        if now - row.last_access_at < ACCESS_PRECISION {
            return;
        }
        let mut write = Write::new();
        rows::touch(&mut write, &mxc.server, &mxc.id, now);
        if let Err(error) = self.shared.store.commit(write).await {
            warn!(error = &error as &dyn std::error::Error, kind = ?error.kind(), "could not write when a file was asked for");
        }
    }
}
