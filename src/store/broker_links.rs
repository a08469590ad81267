//! The links between this server's broker and those of peers. What is secret in them comes sealed, and stays so here.

use model::Millis;
use ruma::{OwnedServerName, ServerName};

use crate::{Error, Row, Store, Table, Write, args};

static LINKS: Table = Table {
    insert: "INSERT INTO broker_links (peer, ours, ours_at)",
    columns: 3,
    // Of two nodes that make up a password at once, the first has the word.
    conflict: "ON CONFLICT (peer) DO NOTHING",
    key: 0,
};

/// A link with a peer's broker.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkRow {
    /// The other server.
    pub peer: OwnedServerName,
    /// The password of its user at our broker, sealed.
    pub ours: String,
    /// When that was made.
    pub ours_at: Millis,
    /// When the peer was last told it.
    pub given_at: Option<Millis>,
    /// How to log in at its broker, sealed.
    pub theirs: Option<String>,
    /// When that was heard, or set.
    pub theirs_at: Option<Millis>,
    /// When an admin set it; otherwise the peer said it.
    pub by_hand_at: Option<Millis>,
    /// Why the link can't be made as it should be.
    pub trouble: Option<String>,
}

impl std::fmt::Debug for LinkRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkRow").field("peer", &self.peer).field("trouble", &self.trouble).finish_non_exhaustive()
    }
}

/// Begins a link, unless there is one with this peer.
pub fn begin(write: &mut Write, peer: &ServerName, ours: &str, now: Millis) {
    write.insert(&LINKS, args![peer.as_str(), ours, now]);
}

/// Gives the peer's user another password.
pub fn set_ours(write: &mut Write, peer: &ServerName, ours: &str, now: Millis) {
    const SET: &str = "UPDATE broker_links SET ours = $2, ours_at = $3, given_at = NULL WHERE peer = $1";
    write.run(SET, args![peer.as_str(), ours, now]);
}

/// The peer was told its password.
pub fn set_given(write: &mut Write, peer: &ServerName, now: Millis) {
    write.run("UPDATE broker_links SET given_at = $2 WHERE peer = $1", args![peer.as_str(), now]);
}

/// What the peer said of its broker, unless an admin has set it. `None`: what it said counts no more.
pub fn set_heard(write: &mut Write, peer: &ServerName, theirs: Option<&str>, now: Millis) {
    const SET: &str = "UPDATE broker_links SET theirs = $2, theirs_at = $3 WHERE peer = $1 AND by_hand_at IS NULL";
    write.run(SET, args![peer.as_str(), theirs, now]);
}

/// What an admin says of the peer's broker. `None`: the peer is to be asked.
pub fn set_by_hand(write: &mut Write, peer: &ServerName, theirs: Option<&str>, now: Millis) {
    const SET: &str = "UPDATE broker_links SET theirs = $2, theirs_at = $3, by_hand_at = $4 WHERE peer = $1";
    let by_hand_at = theirs.map(|_| now);
    write.run(SET, args![peer.as_str(), theirs, now, by_hand_at]);
}

/// Why the link can't be made; `None`: all is well.
pub fn set_trouble(write: &mut Write, peer: &ServerName, trouble: Option<&str>) {
    write.run("UPDATE broker_links SET trouble = $2 WHERE peer = $1", args![peer.as_str(), trouble]);
}

/// Forgets a link, and every secret of it.
pub fn remove(write: &mut Write, peer: &ServerName) {
    write.run("DELETE FROM broker_links WHERE peer = $1", args![peer.as_str()]);
}

/// Reads links.
pub struct BrokerLinks<'a>(&'a Store);

impl Store {
    /// Reads the links with the brokers of peers.
    pub fn broker_links(&self) -> BrokerLinks<'_> {
        BrokerLinks(self)
    }
}

const COLUMNS: &str = "SELECT peer, ours, ours_at, given_at, theirs, theirs_at, by_hand_at, trouble FROM broker_links";

impl BrokerLinks<'_> {
    /// All of them, by name: one for each full peer.
    pub async fn list(&self) -> Result<Vec<LinkRow>, Error> {
        self.0.query(format!("{COLUMNS} ORDER BY peer"), Vec::new()).await?.iter().map(read).collect()
    }

    /// That with `peer`.
    pub async fn find(&self, peer: &ServerName) -> Result<Option<LinkRow>, Error> {
        let rows = self.0.query(format!("{COLUMNS} WHERE peer = $1"), args![peer.as_str()]).await?;
        rows.first().map(read).transpose()
    }
}

fn read(row: &Row) -> Result<LinkRow, Error> {
    let peer = row.text(0)?;
    Ok(LinkRow {
        peer: OwnedServerName::try_from(peer).map_err(|error| Error::Corrupt(error.to_string()))?,
        ours: row.text(1)?,
        ours_at: row.int(2)?,
        given_at: row.opt_int(3)?,
        theirs: row.opt_text(4)?,
        theirs_at: row.opt_int(5)?,
        by_hand_at: row.opt_int(6)?,
        trouble: row.opt_text(7)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn the_first_password_stays_and_what_an_admin_set_is_not_overwritten_by_what_a_peer_says() {
        on_each_engine(async |store| {
            let b = server_name!("b.test");
            let act = async |act: &dyn Fn(&mut Write)| {
                let mut write = Write::new();
                act(&mut write);
                store.commit(write).await
            };
            let found = async || Ok::<_, Error>(store.broker_links().find(b).await?.expect("it was begun"));
            act(&|write| begin(write, b, "first", 1)).await?;
            act(&|write| begin(write, b, "second", 2)).await?;
            assert_eq!((found().await?.ours.as_str(), found().await?.ours_at), ("first", 1));

            act(&|write| set_heard(write, b, Some("heard"), 3)).await?;
            act(&|write| set_given(write, b, 3)).await?;
            let row = found().await?;
            assert_eq!((row.theirs.as_deref(), row.by_hand_at, row.given_at), (Some("heard"), None, Some(3)));
            act(&|write| set_by_hand(write, b, Some("set"), 4)).await?;
            act(&|write| set_heard(write, b, Some("heard again"), 5)).await?;
            assert_eq!((found().await?.theirs.as_deref(), found().await?.by_hand_at), (Some("set"), Some(4)));
            act(&|write| set_by_hand(write, b, None, 6)).await?;
            assert_eq!((found().await?.theirs, found().await?.by_hand_at), (None, None));

            act(&|write| set_ours(write, b, "third", 7)).await?;
            act(&|write| set_trouble(write, b, Some("it is away"))).await?;
            let row = found().await?;
            assert_eq!((row.ours.as_str(), row.given_at, row.trouble.as_deref()), ("third", None, Some("it is away")));
            act(&|write| remove(write, b)).await?;
            assert!(store.broker_links().list().await?.is_empty());
            Ok::<_, Error>(())
        })
        .await;
    }
}
