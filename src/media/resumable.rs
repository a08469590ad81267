//! Files that come in pieces, over as many requests as it takes. What has come stays when a connection breaks, and when this
//! server does.
//!
//! The file has its name from the beginning, so that a message may already speak of it; who opens it meanwhile waits, as for any
//! name that is still to be filled.

use std::{io, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use metrics::counter;
use model::Millis;
use ruma::UserId;
use store::{
    Write,
    media::{self as rows, ContentRow},
    uploads::{self, UploadRow},
};

use crate::{
    Described, Media, MediaError, Mxc,
    content_type::{normalised, safe_file_name},
    files::hex,
    partial::{Partial, size_of},
    upload::{MOST_AWAITED, NAME_LIFETIME, content_row, new_id},
};

/// A file that is to come.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// What its uploader says of it.
    pub described: Described,
    /// How many bytes it has.
    pub length: u64,
    /// What they hash to, in hex. A file that hashes to something else is not taken.
    pub sha256: Option<String>,
}

/// How far a file has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its name.
    pub mxc: Mxc,
    /// How many bytes are here for good.
    pub offset: u64,
    /// How many it has.
    pub length: u64,
    /// When it is given up, milliseconds since 1970; `None`: it is whole.
    pub expires_at: Option<Millis>,
}

/// Something that is either coming or there.
enum Found {
    Coming(UploadRow),
    There(ContentRow),
}

impl Media {
    /// Promises to take a file, and gives it its name. It is waited for a day.
    ///
    /// Errors: `TooLarge`, `QuotaExceeded`, `TooManyAwaited`.
    pub async fn announce(&self, uploader: &UserId, announced: Announced) -> Result<Progress, MediaError> {
        let now = self.now();
        let content_type = normalised(announced.described.content_type.as_deref());
        self.check_declared(&content_type)?;
        self.check_length(announced.length)?;
        self.check_awaited(uploader, now).await?;
        self.check_quota(uploader, announced.length).await?;
        let mxc = Mxc::new(self.server_name(), new_id());
        let upload = UploadRow {
            uploader: uploader.to_owned(),
            length: i64::try_from(announced.length).unwrap_or(i64::MAX),
            sha256: announced.sha256.map(|hash| hash.to_ascii_lowercase()),
            content_type,
            file_name: announced.described.file_name.as_deref().and_then(safe_file_name),
            expires_at: now + NAME_LIFETIME,
        };
        let mut write = Write::new();
        rows::reserve(&mut write, &mxc.server, &mxc.id, uploader, now, upload.expires_at);
        uploads::insert(&mut write, &mxc.id, &upload, now);
        self.shared.store.commit(write).await?;
        if announced.length == 0 {
            return self.append(uploader, &mxc.id, 0, None, stream::empty::<Result<_, MediaError>>()).await;
        }
        Ok(Progress { mxc, offset: 0, length: announced.length, expires_at: Some(upload.expires_at) })
    }

    /// How far a file has come that `uploader` has announced. `NotFound`: it never was, or was given up.
    pub async fn progress(&self, uploader: &UserId, id: &str) -> Result<Progress, MediaError> {
        let upload = match self.find_upload(uploader, id).await? {
            Found::Coming(upload) => upload,
            Found::There(content) => return Ok(self.whole(id, &content)),
        };
        let (offset, length) = (size_of(&self.shared.files, id).await?, upload.length.unsigned_abs());
        if offset == length
            && let Some(partial) = Partial::open(&self.shared.files, id).await?
        {
            // All of it had come when this server ended.
            return self.complete(id, upload, partial).await;
        }
        Ok(self.coming(id, offset, &upload))
    }

    /// Takes the bytes from `offset` on, which is where the file ends so far. Those that came before a connection breaks are kept,
    /// unless `sha256`, 32 bytes, says what all of `body` hashes to. With the last of them the file is whole, and durable before
    /// this returns.
    ///
    /// Errors: `WrongOffset`, `Locked`, `TooLarge`, `WrongHash`, after which nothing of `body` is left; `BrokenOff` and
    /// `TooSlow`.
    pub async fn append<E>(
        &self,
        uploader: &UserId,
        id: &str,
        offset: u64,
        sha256: Option<&[u8]>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Progress, MediaError> {
        let upload = match self.find_upload(uploader, id).await? {
            Found::Coming(upload) => upload,
            Found::There(content) if content.size.unsigned_abs() == offset => return Ok(self.whole(id, &content)),
            Found::There(content) => return Err(MediaError::WrongOffset { offset: content.size.unsigned_abs() }),
        };
        let Some(mut partial) = Partial::open(&self.shared.files, id).await? else { return Err(MediaError::Locked) };
        // Whoever wrote last may have completed it since.
        if let Found::There(content) = self.find_upload(uploader, id).await? {
            partial.remove().await?;
            return Ok(self.whole(id, &content));
        }
        if partial.size() != offset {
            return Err(MediaError::WrongOffset { offset: partial.size() });
        }
        let length = upload.length.unsigned_abs();
        let came = match sha256 {
            Some(sha256) => self.write_checked(&mut partial, length - offset.min(length), sha256, body).await,
            None => self.write_as_it_comes(&mut partial, length, body).await,
        };
        partial.sync().await?;
        came?;
        if partial.size() < length {
            return Ok(self.coming(id, partial.size(), &upload));
        }
        self.complete(id, upload, partial).await
    }

    /// Gives a file up that `uploader` has announced.
    pub async fn abandon(&self, uploader: &UserId, id: &str) -> Result<(), MediaError> {
        let Found::Coming(_) = self.find_upload(uploader, id).await? else { return Err(MediaError::Filled) };
        let Some(partial) = Partial::open(&self.shared.files, id).await? else { return Err(MediaError::Locked) };
        self.forget(id, partial).await
    }

    async fn write_as_it_comes<E>(
        &self,
        partial: &mut Partial,
        length: u64,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<(), MediaError> {
        let mut body = pin!(self.in_time(body));
        while let Some(piece) = body.next().await {
            let piece = piece?;
            if partial.size() + piece.len() as u64 > length {
                return Err(MediaError::TooLarge { limit: length });
            }
            partial.write(&piece).await?;
        }
        Ok(())
    }

    /// What is to be checked stands apart until it has been.
    async fn write_checked<E>(
        &self,
        partial: &mut Partial,
        limit: u64,
        sha256: &[u8],
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<(), MediaError> {
        let draft = self.draft_of(body, limit).await?;
        if draft.sha256() != hex(sha256) {
            return Err(MediaError::WrongHash);
        }
        Ok(partial.write_draft(draft).await?)
    }

    /// All of it is here: the last look at it, and it is a file like any other.
    async fn complete(&self, id: &str, upload: UploadRow, mut partial: Partial) -> Result<Progress, MediaError> {
        let written = match partial.look().await {
            // Another node did the same, and was first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.completed(id, &upload.uploader).await,
            looked => looked?,
        };
        if upload.sha256.as_ref().is_some_and(|announced| *announced != written.sha256) {
            self.forget(id, partial).await?;
            return Err(MediaError::WrongHash);
        }
        match self.inspect_whole(upload.uploader.as_str(), &upload.content_type, &written, &mut partial).await {
            Ok(()) => {}
            // All of it is here, and need not come again when the scanner is back: who asks how far it is has it looked at.
            Err(error @ (MediaError::NotScanned | MediaError::Files(_))) => return Err(error),
            Err(error) => {
                self.forget(id, partial).await?;
                return Err(error);
            }
        }
        let (size, sha256, file_name) = (written.size, written.sha256.clone(), upload.file_name.as_deref());
        if let Err(error) = self.ask(&upload.uploader, size, sha256, &upload.content_type, file_name).await {
            self.forget(id, partial).await?;
            return Err(error);
        }
        partial.keep(&self.shared.files, &written.sha256).await?;
        let content = content_row(written, upload.content_type, file_name);
        let mut write = Write::new();
        rows::fill(&mut write, self.server_name(), id, &content);
        uploads::remove(&mut write, id);
        self.shared.store.commit(write).await?;
        counter!("comity_media_uploads_total").increment(1);
        counter!("comity_media_upload_bytes_total").increment(size);
        self.shared.filled.notify_waiters();
        partial.remove().await?;
        self.completed(id, &upload.uploader).await
    }

    /// What became of a file that was completed, here or by another node, or that another node gave up.
    async fn completed(&self, id: &str, uploader: &UserId) -> Result<Progress, MediaError> {
        match self.find_upload(uploader, id).await? {
            Found::There(content) => Ok(self.whole(id, &content)),
            Found::Coming(_) => Err(MediaError::Locked),
        }
    }

    async fn forget(&self, id: &str, partial: Partial) -> Result<(), MediaError> {
        let mut write = Write::new();
        uploads::remove(&mut write, id);
        rows::remove_name(&mut write, self.server_name(), id);
        self.shared.store.commit(write).await?;
        Ok(partial.remove().await?)
    }

    /// Somebody else's is as good as not there.
    async fn find_upload(&self, uploader: &UserId, id: &str) -> Result<Found, MediaError> {
        if let Some(upload) = self.shared.store.uploads().find(id, self.now()).await? {
            return if upload.uploader == uploader { Ok(Found::Coming(upload)) } else { Err(MediaError::NotFound) };
        }
        let row = self.shared.store.media().find(self.server_name(), id).await?;
        let row = row.filter(|row| row.uploader.as_deref() == Some(uploader)).ok_or(MediaError::NotFound)?;
        row.content.map(Found::There).ok_or(MediaError::NotFound)
    }

    /// How many bytes the files of a user take up here.
    pub async fn used_by(&self, uploader: &UserId) -> Result<u64, MediaError> {
        Ok(self.shared.store.uploads().bytes_of(uploader, self.now()).await?.unsigned_abs())
    }

    /// Refuses what would be more than `uploader` may have here.
    pub(crate) async fn check_quota(&self, uploader: &UserId, more: u64) -> Result<(), MediaError> {
        let Some(quota) = self.config().quota else { return Ok(()) };
        let used = self.used_by(uploader).await?;
        if used.saturating_add(more) > quota { Err(MediaError::QuotaExceeded { quota, used }) } else { Ok(()) }
    }

    /// Refuses another name to who has filled none of many.
    pub(crate) async fn check_awaited(&self, uploader: &UserId, now: Millis) -> Result<(), MediaError> {
        if self.shared.store.media().awaited(uploader, now).await? >= MOST_AWAITED {
            return Err(MediaError::TooManyAwaited { retry_after: Duration::from_mins(1) });
        }
        Ok(())
    }

    fn coming(&self, id: &str, offset: u64, upload: &UploadRow) -> Progress {
        let mxc = Mxc::new(self.server_name(), id);
        Progress { mxc, offset, length: upload.length.unsigned_abs(), expires_at: Some(upload.expires_at) }
    }

    fn whole(&self, id: &str, content: &ContentRow) -> Progress {
        let (mxc, size) = (Mxc::new(self.server_name(), id), content.size.unsigned_abs());
        Progress { mxc, offset: size, length: size, expires_at: None }
    }
}
