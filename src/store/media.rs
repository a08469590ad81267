//! What is known of images and files; their bytes are not in the database.

use model::Millis;
use ruma::{OwnedUserId, ServerName, UserId};

use crate::{Error, Row, Store, Table, Write, args};

/// What stands behind `mxc://origin/media_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRow {
    /// The user of this server who made it.
    pub uploader: Option<OwnedUserId>,
    /// Until when it may be filled, if it began as a name.
    pub expires_at: Option<Millis>,
    /// When somebody last asked for it, more or less.
    pub last_access_at: Millis,
    /// What it holds, once it is there.
    pub content: Option<ContentRow>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRow {
    /// The hash of its bytes, in hex.
    pub sha256: String,
    /// How many there are.
    pub size: i64,
    /// What they are said to be.
    pub content_type: String,
    /// What the file is called.
    pub file_name: Option<String>,
}

/// A name gets its content once and for all: a second one is refused.
static MEDIA: Table = Table {
    insert: "INSERT INTO media (origin, media_id, uploader, created_at, expires_at, sha256, size, content_type, \
             file_name, last_access_at)",
    columns: 10,
    conflict: "",
    key: 0,
};

/// A copy of another server's file, which may have been fetched again.
static COPIES: Table = Table {
    insert: "INSERT INTO media (origin, media_id, created_at, sha256, size, content_type, file_name, last_access_at)",
    columns: 8,
    conflict: "ON CONFLICT (origin, media_id) DO UPDATE SET sha256 = excluded.sha256, size = excluded.size, \
               content_type = excluded.content_type, file_name = excluded.file_name, \
               last_access_at = excluded.last_access_at",
    key: 2,
};

/// A file that `uploader` made.
pub fn insert(
    write: &mut Write,
    origin: &ServerName,
    media_id: &str,
    uploader: &UserId,
    content: &ContentRow,
    now: Millis,
) {
    let mut row = args![origin.as_str(), media_id, uploader.as_str(), now, None::<i64>, content.sha256.as_str()];
    row.extend(args![content.size, content.content_type.as_str(), content.file_name.as_deref(), now]);
    write.insert(&MEDIA, row);
}

/// A copy of another server's file.
pub fn upsert_copy(write: &mut Write, origin: &ServerName, media_id: &str, content: &ContentRow, now: Millis) {
    let mut row = args![origin.as_str(), media_id, now, content.sha256.as_str(), content.size];
    row.extend(args![content.content_type.as_str(), content.file_name.as_deref(), now]);
    write.insert(&COPIES, row);
}

/// A name that `uploader` may fill until `expires_at`. Those of the user's that were not filled in time are removed.
pub fn reserve(
    write: &mut Write,
    origin: &ServerName,
    media_id: &str,
    uploader: &UserId,
    now: Millis,
    expires_at: Millis,
) {
    const FORGET: &str = "DELETE FROM media WHERE uploader = $1 AND sha256 IS NULL AND expires_at <= $2";
    write.run(FORGET, args![uploader.as_str(), now]);
    let mut row = args![origin.as_str(), media_id, uploader.as_str(), now, expires_at, None::<&str>];
    row.extend(args![0, "", None::<&str>, now]);
    write.insert(&MEDIA, row);
}

/// Fills a name that is still without content. Whether it was, [`Media::find`] tells.
pub fn fill(write: &mut Write, origin: &ServerName, media_id: &str, content: &ContentRow) {
    const FILL: &str = "
        UPDATE media
        SET sha256 = $3, size = $4, content_type = $5, file_name = $6
        WHERE origin = $1 AND media_id = $2 AND sha256 IS NULL";
    let mut args = args![origin.as_str(), media_id, content.sha256.as_str(), content.size];
    args.extend(args![content.content_type.as_str(), content.file_name.as_deref()]);
    write.run(FILL, args);
}

/// Forgets a name that is still without content.
pub fn remove_name(write: &mut Write, origin: &ServerName, media_id: &str) {
    const REMOVE: &str = "DELETE FROM media WHERE origin = $1 AND media_id = $2 AND sha256 IS NULL";
    write.run(REMOVE, args![origin.as_str(), media_id]);
}

/// Somebody asked for it.
pub fn touch(write: &mut Write, origin: &ServerName, media_id: &str, now: Millis) {
    const TOUCH: &str = "UPDATE media SET last_access_at = $3 WHERE origin = $1 AND media_id = $2";
    write.run(TOUCH, args![origin.as_str(), media_id, now]);
}

/// Reads what is known of files.
pub struct Media<'a>(pub(crate) &'a Store);

impl Media<'_> {
    /// What stands behind `mxc://origin/media_id`.
    pub async fn find(&self, origin: &ServerName, media_id: &str) -> Result<Option<MediaRow>, Error> {
        const FIND: &str = "
            SELECT uploader, expires_at, last_access_at, sha256, size, content_type, file_name
            FROM media
            WHERE origin = $1 AND media_id = $2";
        let rows = self.0.query(FIND, args![origin.as_str(), media_id]).await?;
        rows.first().map(read).transpose()
    }

    /// How many names of `uploader` wait for their content.
    pub async fn awaited(&self, uploader: &UserId, now: Millis) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM media WHERE uploader = $1 AND sha256 IS NULL AND expires_at > $2";
        let rows = self.0.query(COUNT, args![uploader.as_str(), now]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }
}

/// A file that somebody has uploaded, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedRow {
    /// What it is called in `mxc://`.
    pub media_id: String,
    /// When it was named, milliseconds since 1970.
    pub created_at: Millis,
    /// What it holds.
    pub content: ContentRow,
}

impl Media<'_> {
    /// What `uploader` has uploaded to `origin`, the latest first, after what `before` names by time and id; at most `limit`.
    pub async fn uploaded(
        &self,
        origin: &ServerName,
        uploader: &UserId,
        before: (Millis, &str),
        limit: u32,
    ) -> Result<Vec<UploadedRow>, Error> {
        const LIST: &str = "
            SELECT media_id, created_at, sha256, size, content_type, file_name
            FROM media
            WHERE uploader = $1 AND origin = $2 AND sha256 IS NOT NULL AND (created_at, media_id) < ($3, $4)
            ORDER BY created_at DESC, media_id DESC
            LIMIT $5";
        let mut args = args![uploader.as_str(), origin.as_str(), before.0, before.1];
        args.extend(args![i64::from(limit)]);
        let rows = self.0.query(LIST, args).await?;
        let uploaded = rows.iter().map(|row| {
            let (sha256, size, content_type, file_name) = (row.text(2)?, row.int(3)?, row.text(4)?, row.opt_text(5)?);
            let content = ContentRow { sha256, size, content_type, file_name };
            Ok(UploadedRow { media_id: row.text(0)?, created_at: row.int(1)?, content })
        });
        uploaded.collect()
    }
}

fn read(row: &Row) -> Result<MediaRow, Error> {
    let (size, content_type, file_name) = (row.int(4)?, row.text(5)?, row.opt_text(6)?);
    let content = row.opt_text(3)?.map(|sha256| ContentRow { sha256, size, content_type, file_name });
    Ok(MediaRow { uploader: row.opt_parse(0)?, expires_at: row.opt_int(1)?, last_access_at: row.int(2)?, content })
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::testing::on_each_engine;

    fn content(sha256: &str) -> ContentRow {
        let (content_type, file_name) = ("image/png".to_owned(), Some("cat.png".to_owned()));
        ContentRow { sha256: sha256.to_owned(), size: 7, content_type, file_name }
    }

    #[tokio::test]
    async fn a_file_keeps_its_content_and_a_copy_may_be_fetched_again() {
        on_each_engine(async |store| {
            let (ours, theirs, alice) = (server_name!("a.test"), server_name!("b.test"), user_id!("@alice:a.test"));
            let mut write = Write::new();
            insert(&mut write, ours, "one", alice, &content("aa"), 5);
            upsert_copy(&mut write, theirs, "one", &content("bb"), 5);
            store.commit(write).await?;
            let found = store.media().find(ours, "one").await?.expect("it was stored");
            let uploader = Some(alice.to_owned());
            assert_eq!(found, MediaRow { uploader, expires_at: None, last_access_at: 5, content: Some(content("aa")) });

            let mut write = Write::new();
            insert(&mut write, ours, "one", alice, &content("cc"), 6);
            assert!(matches!(store.commit(write).await, Err(Error::Duplicate)));
            let mut write = Write::new();
            upsert_copy(&mut write, theirs, "one", &content("cc"), 6);
            touch(&mut write, ours, "one", 9);
            store.commit(write).await?;
            let copy = store.media().find(theirs, "one").await?.expect("it was stored");
            assert_eq!((copy.uploader, copy.content), (None, Some(content("cc"))));
            let touched = store.media().find(ours, "one").await?.expect("it was stored");
            assert_eq!(touched.last_access_at, 9);
            assert_eq!(store.media().find(ours, "two").await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_somebody_has_uploaded_is_listed_page_by_page() {
        on_each_engine(async |store| {
            let (ours, alice) = (server_name!("a.test"), user_id!("@alice:a.test"));
            let mut write = Write::new();
            for (id, at) in [("one", 1), ("two", 2), ("three", 2)] {
                insert(&mut write, ours, id, alice, &content(id), at);
            }
            insert(&mut write, ours, "bobs", user_id!("@bob:a.test"), &content("bobs"), 3);
            reserve(&mut write, ours, "empty", alice, 4, 10);
            store.commit(write).await?;
            let ids = async |before: (Millis, &str)| {
                let found = store.media().uploaded(ours, alice, before, 2).await?;
                Ok::<_, Error>(found.into_iter().map(|row| (row.created_at, row.media_id)).collect::<Vec<_>>())
            };
            let first = ids((Millis::MAX, "")).await?;
            assert_eq!(first, [(2, "two".to_owned()), (2, "three".to_owned())]);
            assert_eq!(ids((2, "three")).await?, [(1, "one".to_owned())]);
            Ok::<_, Error>(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_name_is_filled_once_and_goes_when_it_was_not_filled_in_time() {
        on_each_engine(async |store| {
            let (ours, alice) = (server_name!("a.test"), user_id!("@alice:a.test"));
            let mut write = Write::new();
            reserve(&mut write, ours, "one", alice, 1, 10);
            reserve(&mut write, ours, "two", alice, 1, 10);
            store.commit(write).await?;
            assert_eq!(store.media().awaited(alice, 5).await?, 2);
            for sha256 in ["aa", "bb"] {
                let mut write = Write::new();
                fill(&mut write, ours, "one", &content(sha256));
                store.commit(write).await?;
            }
            let found = store.media().find(ours, "one").await?.expect("it was reserved");
            assert_eq!((found.expires_at, found.content), (Some(10), Some(content("aa"))));
            assert_eq!(store.media().awaited(alice, 5).await?, 1);

            let mut write = Write::new();
            reserve(&mut write, ours, "three", alice, 11, 20);
            store.commit(write).await?;
            assert_eq!(store.media().find(ours, "two").await?, None);
            assert!(store.media().find(ours, "one").await?.is_some());
            Ok::<_, Error>(())
        })
        .await;
    }
}
