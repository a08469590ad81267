//! Files that come in pieces, until they are whole.

use model::Millis;
use ruma::{OwnedUserId, UserId};

use crate::{Error, Store, Table, Write, args};

/// What was said of a file before it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadRow {
    /// Who sends it.
    pub uploader: OwnedUserId,
    /// How many bytes it will have.
    pub length: i64,
    /// What they will hash to, in hex, if that was said.
    pub sha256: Option<String>,
    /// What it is said to be.
    pub content_type: String,
    /// What it is called.
    pub file_name: Option<String>,
    /// When it is given up.
    pub expires_at: Millis,
}

static UPLOADS: Table = Table {
    insert: "INSERT INTO uploads (media_id, uploader, length, sha256, content_type, file_name, expires_at)",
    columns: 7,
    conflict: "",
    key: 0,
};

/// A file will come for a name that was reserved in the same Write. Those that nobody waits for any more are forgotten.
pub fn insert(write: &mut Write, media_id: &str, upload: &UploadRow, now: Millis) {
    const FORGET: &str = "DELETE FROM uploads WHERE expires_at <= $1";
    write.run(FORGET, args![now]);
    let mut row = args![media_id, upload.uploader.as_str(), upload.length, upload.sha256.as_deref()];
    row.extend(args![upload.content_type.as_str(), upload.file_name.as_deref(), upload.expires_at]);
    write.insert(&UPLOADS, row);
}

/// It has come, or will not.
pub fn remove(write: &mut Write, media_id: &str) {
    const REMOVE: &str = "DELETE FROM uploads WHERE media_id = $1";
    write.run(REMOVE, args![media_id]);
}

/// Reads what is known of files that are coming.
pub struct Uploads<'a>(pub(crate) &'a Store);

impl Uploads<'_> {
    /// One that is still to be whole.
    pub async fn find(&self, media_id: &str, now: Millis) -> Result<Option<UploadRow>, Error> {
        const FIND: &str = "
            SELECT uploader, length, sha256, content_type, file_name, expires_at
            FROM uploads
            WHERE media_id = $1 AND expires_at > $2";
        let rows = self.0.query(FIND, args![media_id, now]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(UploadRow {
            uploader: row.parse(0)?,
            length: row.int(1)?,
            sha256: row.opt_text(2)?,
            content_type: row.text(3)?,
            file_name: row.opt_text(4)?,
            expires_at: row.int(5)?,
        }))
    }

    /// How many bytes `uploader` has here, with those that are still to come.
    pub async fn bytes_of(&self, uploader: &UserId, now: Millis) -> Result<i64, Error> {
        const SUM: &str = "
            SELECT CAST(
                (SELECT COALESCE(SUM(size), 0) FROM media WHERE uploader = $1)
                + (SELECT COALESCE(SUM(length), 0) FROM uploads WHERE uploader = $1 AND expires_at > $2) AS BIGINT)";
        let rows = self.0.query(SUM, args![uploader.as_str(), now]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;
    use crate::{
        media::{self, ContentRow},
        testing::on_each_engine,
    };

    #[tokio::test]
    async fn what_is_to_come_counts_until_it_is_there_or_given_up() {
        on_each_engine(async |store| {
            let alice = user_id!("@alice:a.test");
            let upload = |length, expires_at| UploadRow {
                uploader: alice.to_owned(),
                length,
                sha256: Some("aa".to_owned()),
                content_type: "image/png".to_owned(),
                file_name: Some("cat.png".to_owned()),
                expires_at,
            };
            let mut write = Write::new();
            let content =
                ContentRow { sha256: "bb".to_owned(), size: 7, content_type: "text/plain".to_owned(), file_name: None };
            media::insert(&mut write, server_name!("a.test"), "whole", alice, &content, 1);
            insert(&mut write, "one", &upload(100, 50), 1);
            insert(&mut write, "two", &upload(1000, 20), 1);
            store.commit(write).await?;
            assert_eq!(store.uploads().bytes_of(alice, 5).await?, 1107);
            assert_eq!(store.uploads().bytes_of(user_id!("@bob:a.test"), 5).await?, 0);
            assert_eq!(store.uploads().find("one", 5).await?, Some(upload(100, 50)));
            assert_eq!(store.uploads().find("two", 20).await?, None);
            assert_eq!(store.uploads().bytes_of(alice, 20).await?, 107);
            let mut write = Write::new();
            remove(&mut write, "one");
            store.commit(write).await?;
            assert_eq!(store.uploads().find("one", 5).await?, None);
            Ok::<_, Error>(())
        })
        .await;
    }
}
