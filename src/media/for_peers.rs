//! Which files of ours other servers are given, by how far they are trusted.

use model::peer::{Capability, Context, Grant};
use peers::{Trust, TrustError};
use ruma::{OwnedUserId, ServerName};

use crate::{Item, Media, MediaError, Mxc};

/// The largest file for those who are given files of moderate size …
const MODERATE: u64 = 20 << 20;
/// … and for those who are given small ones.
const SMALL: u64 = 5 << 20;
/// What is given to those who aren't given every type.
const HARMLESS: [&str; 5] = ["image/", "audio/", "video/", "text/plain", "application/pdf"];

/// What a file may be like that a server is given.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    most_bytes: u64,
    any_type: bool,
}

impl Media {
    /// Whether `server` is given a file of ours, and what it may be like. A file belongs to whoever uploaded it: that a room is
    /// shared means that the uploader shares one.
    ///
    /// `shares_room`: whether somebody of ours shares a room with somebody of `server`; asked where it hangs on that.
    pub async fn allow_peer<E: From<MediaError> + From<TrustError>>(
        &self,
        trust: &Trust,
        server: &ServerName,
        mxc: &Mxc,
        shares_room: impl AsyncFnOnce(OwnedUserId) -> Result<bool, E>,
    ) -> Result<Given, E> {
        let shares = async |_| match self.uploader(mxc).await? {
            Some(uploader) => shares_room(uploader).await,
            None => Ok(false),
        };
        let allowed = trust.allow_knowing(server, Capability::Media, &Context::inbound(), shares).await?;
        let (most_bytes, any_type) = match allowed.grant {
            Grant::Yes => (u64::MAX, true),
            Grant::Paced => (MODERATE, false),
            _ => (SMALL, false),
        };
        Ok(Given { most_bytes: trust.media_limit(server).unwrap_or(most_bytes), any_type })
    }
}

impl Given {
    /// Refuses a file that is not like that.
    pub fn check(&self, item: &Item) -> Result<(), MediaError> {
        self.check_like(item.size, &item.content_type)
    }

    fn check_like(&self, size: u64, content_type: &str) -> Result<(), MediaError> {
        if size > self.most_bytes {
            return Err(MediaError::TooLargeForPeer { limit: self.most_bytes });
        }
        if !self.any_type && !HARMLESS.iter().any(|kind| content_type.starts_with(kind)) {
            return Err(MediaError::NotForPeer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_given_by_size_and_type() {
        let refused = |given: &Given, size, kind| given.check_like(size, kind).err().map(|error| error.to_string());
        let all = Given { most_bytes: u64::MAX, any_type: true };
        assert_eq!(refused(&all, 1 << 40, "application/x-executable"), None);
        let some = Given { most_bytes: 10, any_type: false };
        assert_eq!(refused(&some, 10, "image/png"), None);
        assert!(refused(&some, 11, "image/png").is_some_and(|why| why.contains("at most 10 bytes")));
        assert!(refused(&some, 10, "text/html").is_some_and(|why| why.contains("images")));
    }
}
