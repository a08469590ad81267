//! Messages from device to device, kept until the device has them.

use model::{Change, Position, UserStream};
use ruma::{OwnedUserId, UserId};

use crate::{Arg, Error, Store, Table, Write, args};

static TO_DEVICE: Table = Table {
    insert: "INSERT INTO to_device (user_id, device_id, position, sender, type, content)",
    columns: 6,
    conflict: "",
    key: 0,
};

/// A message that waits for a device.
#[derive(Clone, Debug)]
pub struct ToDeviceMessage {
    /// When it was sent.
    pub position: Position,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// `m.room.encrypted` …
    pub kind: String,
    /// A JSON object.
    pub content: String,
}

/// Leaves a message for one device, and tells it.
pub fn insert(write: &mut Write, to: &UserId, device_id: &str, sender: &UserId, kind: &str, content: &str) {
    let position = write.tell_next(Change::User { user_id: to.to_owned(), stream: UserStream::ToDevice });
    let mut row = args![to.as_str(), device_id];
    row.push(position);
    row.extend(args![sender.as_str(), kind, content]);
    write.insert(&TO_DEVICE, row);
}

/// Drops what a device has told to have, up to `upto`.
pub fn remove(write: &mut Write, user_id: &UserId, device_id: &str, upto: Position) {
    const REMOVE: &str = "DELETE FROM to_device WHERE user_id = $1 AND device_id = $2 AND position <= $3";
    write.run(REMOVE, args![user_id.as_str(), device_id, upto]);
}

/// Reads messages to devices.
pub struct ToDevice<'a>(pub(crate) &'a Store);

impl ToDevice<'_> {
    /// The first `limit` messages after `since` that wait for a device, earliest first.
    pub async fn waiting(
        &self,
        user_id: &UserId,
        device_id: &str,
        since: Position,
        limit: usize,
    ) -> Result<Vec<ToDeviceMessage>, Error> {
        const WAITING: &str = "
            SELECT position, sender, type, content
            FROM to_device
            WHERE user_id = $1 AND device_id = $2 AND position > $3
            ORDER BY position
            LIMIT $4";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let args = vec![user_id.as_str().into(), device_id.into(), since.into(), Arg::Int(limit)];
        let rows = self.0.query(WAITING, args).await?;
        rows.iter()
            .map(|row| {
                Ok(ToDeviceMessage {
                    position: Position(row.int(0)?),
                    sender: row.parse(1)?,
                    kind: row.text(2)?,
                    content: row.text(3)?,
                })
            })
            .collect()
    }

    /// The devices that a message to `*` goes to.
    pub async fn devices_of(&self, user_id: &UserId) -> Result<Vec<String>, Error> {
        const DEVICES: &str = "SELECT device_id FROM devices WHERE user_id = $1 ORDER BY device_id";
        self.0.query(DEVICES, args![user_id.as_str()]).await?.iter().map(|row| row.text(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn messages_come_in_order_and_stay_until_the_device_has_them() {
        on_each_engine(async |store| {
            let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
            let mut write = Write::new();
            for number in 1..=3 {
                insert(&mut write, alice, "PHONE", bob, "m.test", &format!(r#"{{"n":{number}}}"#));
            }
            insert(&mut write, alice, "TABLET", bob, "m.test", "{}");
            let first = store.commit(write).await?;

            let contents = async |since| {
                let waiting = store.to_device().waiting(alice, "PHONE", since, 2).await?;
                Ok::<_, Error>(waiting.into_iter().map(|message| message.content).collect::<Vec<_>>())
            };
            assert_eq!(contents(Position(0)).await?, [r#"{"n":1}"#, r#"{"n":2}"#]);
            assert_eq!(contents(Position(first.0 + 1)).await?, [r#"{"n":3}"#]);

            let mut write = Write::new();
            remove(&mut write, alice, "PHONE", Position(first.0 + 1));
            store.commit(write).await?;
            assert_eq!(contents(Position(0)).await?, [r#"{"n":3}"#]);
            assert_eq!(store.to_device().waiting(alice, "TABLET", Position(0), 9).await?.len(), 1);
            Ok::<_, Error>(())
        })
        .await;
    }
}
