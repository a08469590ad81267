//! Offers to be peers, and what became of them.

use model::Millis;
use ruma::{OwnedServerName, ServerName};

use crate::{Error, Row, Store, Table, Write, args};

static PEERINGS: Table = Table {
    insert: "INSERT INTO peerings (id, peer, is_ours, state, document, expires_at, sent_at, told, heard, heard_number,
                                   trouble, changed_by, changed_at)",
    columns: 13,
    conflict: "ON CONFLICT (id) DO UPDATE
        SET state = excluded.state, document = excluded.document, sent_at = excluded.sent_at, told = excluded.told,
            heard = excluded.heard, heard_number = excluded.heard_number, trouble = excluded.trouble,
            changed_by = excluded.changed_by, changed_at = excluded.changed_at",
    key: 1,
};

const COLUMNS: &str = "id, peer, is_ours, state, document, expires_at, sent_at, told, heard, heard_number, trouble,
    changed_by, changed_at";

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeeringState {
    /// It was made, and nobody has answered it.
    Offered,
    /// This server has accepted it, and the one that made it has not signed that yet.
    Accepted,
    /// Both have signed it.
    Agreed,
    /// Who made it took it back.
    Withdrawn,
    /// It was declined, here or there.
    Refused,
    /// What was agreed holds no longer.
    Ended,
}

impl PeeringState {
    const ALL: [Self; 6] = [Self::Offered, Self::Accepted, Self::Agreed, Self::Withdrawn, Self::Refused, Self::Ended];

    /// Whether something can still come of the offer.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Offered | Self::Accepted)
    }

    /// As the database and the APIs spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Agreed => "agreed",
            Self::Withdrawn => "withdrawn",
            Self::Refused => "refused",
            Self::Ended => "ended",
        }
    }
}

/// An offer to be peers, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeeringRow {
    /// Of the offer, as the server that made it chose it.
    pub id: String,
    /// The other server.
    pub peer: OwnedServerName,
    /// Whether this server made the offer.
    pub is_ours: bool,
    /// What became of it.
    pub state: PeeringState,
    /// The offer or the agreement, JSON with its signatures.
    pub document: String,
    /// From then on the offer can't be accepted.
    pub expires_at: Millis,
    /// When the other server took what this one has to say of it.
    pub sent_at: Option<Millis>,
    /// How the other server was last told that it is trusted here.
    pub told: Option<String>,
    /// How the other server last said to trust this one.
    pub heard: Option<String>,
    /// The number of that notice, as the other server counts.
    pub heard_number: i64,
    /// What went wrong last.
    pub trouble: Option<String>,
    /// Who brought it into this state.
    pub changed_by: String,
    /// When.
    pub changed_at: Millis,
}

/// Puts an offer, or what became of it.
pub fn put(write: &mut Write, row: &PeeringRow) {
    let values = args![
        row.id.as_str(),
        row.peer.as_str(),
        i64::from(row.is_ours),
        row.state.as_str(),
        row.document.as_str(),
        row.expires_at,
        row.sent_at,
        row.told.as_deref(),
        row.heard.as_deref(),
        row.heard_number,
        row.trouble.as_deref(),
        row.changed_by.as_str(),
        row.changed_at
    ];
    write.insert(&PEERINGS, values);
}

/// Puts an offer that has just come, unless it is there.
pub fn insert(write: &mut Write, row: &PeeringRow) {
    const INSERT: &str = "
        INSERT INTO peerings (id, peer, is_ours, state, document, expires_at, heard_number, changed_by, changed_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (id) DO NOTHING";
    let PeeringRow { id, peer, is_ours, state, document, expires_at, heard_number, changed_by, changed_at, .. } = row;
    write.run(
        INSERT,
        args![
            id.as_str(),
            peer.as_str(),
            i64::from(*is_ours),
            state.as_str(),
            document.as_str(),
            *expires_at,
            *heard_number,
            changed_by.as_str(),
            *changed_at
        ],
    );
}

/// What was in one state is in another, if it still was.
pub fn leave(write: &mut Write, id: &str, from: PeeringState, to: PeeringState) {
    const LEAVE: &str = "UPDATE peerings SET state = $3 WHERE id = $1 AND state = $2";
    write.run(LEAVE, args![id, from.as_str(), to.as_str()]);
}

/// The other server has taken what this one had to say of an offer, unless it is in another state by now.
pub fn sent(write: &mut Write, id: &str, state: PeeringState, at: Millis) {
    const SENT: &str = "UPDATE peerings SET sent_at = $3, trouble = NULL WHERE id = $1 AND state = $2";
    write.run(SENT, args![id, state.as_str(), at]);
}

/// The other server was told how it is trusted here.
pub fn told(write: &mut Write, id: &str, how: &str) {
    write.run("UPDATE peerings SET told = $2, trouble = NULL WHERE id = $1", args![id, how]);
}

/// Something went wrong.
pub fn trouble(write: &mut Write, id: &str, what: &str) {
    write.run("UPDATE peerings SET trouble = $2 WHERE id = $1", args![id, what]);
}

/// Forgets offers that nothing came of and that nobody could accept any more at `now`.
pub fn forget(write: &mut Write, now: Millis) {
    write.run("DELETE FROM peerings WHERE state NOT IN ('agreed', 'ended') AND expires_at <= $1", args![now]);
}

/// Reads offers.
pub struct Peerings<'a>(&'a Store);

impl Store {
    /// Reads offers to be peers.
    pub fn peerings(&self) -> Peerings<'_> {
        Peerings(self)
    }
}

impl Peerings<'_> {
    /// All of them, the latest first.
    pub async fn list(&self) -> Result<Vec<PeeringRow>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM peerings ORDER BY changed_at DESC, id");
        self.0.query(sql, Vec::new()).await?.iter().map(read).collect()
    }

    /// One of them.
    pub async fn find(&self, id: &str) -> Result<Option<PeeringRow>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM peerings WHERE id = $1");
        self.0.query(sql, args![id]).await?.first().map(read).transpose()
    }

    /// Those of one other server, the latest first.
    pub async fn of_peer(&self, peer: &ServerName) -> Result<Vec<PeeringRow>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM peerings WHERE peer = $1 ORDER BY changed_at DESC, id");
        self.0.query(sql, args![peer.as_str()]).await?.iter().map(read).collect()
    }

    /// Those of which something may have to be said to the other server.
    pub async fn open(&self) -> Result<Vec<PeeringRow>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM peerings
             WHERE state = 'agreed' OR (sent_at IS NULL AND (state = 'accepted' OR (state = 'offered' AND is_ours = 1)))
             ORDER BY changed_at, id"
        );
        self.0.query(sql, Vec::new()).await?.iter().map(read).collect()
    }

    /// How many offers of others wait for an answer.
    pub async fn count_waiting(&self) -> Result<i64, Error> {
        const COUNT: &str = "SELECT COUNT(*) FROM peerings WHERE state = 'offered' AND is_ours = 0";
        let rows = self.0.query(COUNT, Vec::new()).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }
}

fn read(row: &Row) -> Result<PeeringRow, Error> {
    let corrupt = |what: &str| Error::Corrupt(format!("peerings: {what}"));
    let state = row.text(3)?;
    let state = PeeringState::ALL.into_iter().find(|known| known.as_str() == state);
    Ok(PeeringRow {
        id: row.text(0)?,
        peer: row.text(1)?.try_into().map_err(|_| corrupt("the name of a server is none"))?,
        is_ours: row.int(2)? != 0,
        state: state.ok_or_else(|| corrupt("a state is unknown"))?,
        document: row.text(4)?,
        expires_at: row.int(5)?,
        sent_at: row.opt_int(6)?,
        told: row.opt_text(7)?,
        heard: row.opt_text(8)?,
        heard_number: row.int(9)?,
        trouble: row.opt_text(10)?,
        changed_by: row.text(11)?,
        changed_at: row.int(12)?,
    })
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;

    use super::*;
    use crate::testing::on_each_engine_of_old;

    fn row(id: &str, state: PeeringState, changed_at: Millis) -> PeeringRow {
        PeeringRow {
            id: id.into(),
            peer: owned_server_name!("b.test"),
            is_ours: true,
            state,
            document: "{}".into(),
            expires_at: 100,
            sent_at: None,
            told: None,
            heard: None,
            heard_number: 0,
            trouble: None,
            changed_by: "@admin:a.test".into(),
            changed_at,
        }
    }

    #[tokio::test]
    async fn an_offer_is_as_it_was_put_last_and_what_came_of_nothing_is_forgotten() {
        on_each_engine_of_old(async |store| {
            let mut write = Write::new();
            let theirs = PeeringRow { is_ours: false, ..row("theirs", PeeringState::Offered, 1) };
            for row in [&row("1", PeeringState::Offered, 2), &row("2", PeeringState::Offered, 3), &theirs] {
                put(&mut write, row);
            }
            store.commit(write).await?;
            assert_eq!(store.peerings().count_waiting().await?, 1);
            let ids = |rows: Vec<PeeringRow>| rows.into_iter().map(|row| row.id).collect::<Vec<_>>();
            assert_eq!(ids(store.peerings().open().await?), ["1", "2"]);

            let mut write = Write::new();
            sent(&mut write, "1", PeeringState::Offered, 5);
            // It is in another state, so that this is old news.
            sent(&mut write, "2", PeeringState::Accepted, 5);
            trouble(&mut write, "2", "it is away");
            store.commit(write).await?;
            assert_eq!(store.peerings().find("1").await?.and_then(|row| row.sent_at), Some(5));
            let second = store.peerings().find("2").await?;
            assert_eq!(second.map(|row| (row.sent_at, row.trouble)), Some((None, Some("it is away".into()))));
            assert_eq!(ids(store.peerings().open().await?), ["2"]);

            let agreed =
                PeeringRow { heard: Some("full".into()), heard_number: 7, ..row("1", PeeringState::Agreed, 6) };
            let mut write = Write::new();
            put(&mut write, &agreed);
            insert(&mut write, &PeeringRow { document: "no".into(), ..agreed.clone() });
            leave(&mut write, "1", PeeringState::Offered, PeeringState::Ended);
            told(&mut write, "1", "limited");
            forget(&mut write, 100);
            store.commit(write).await?;
            let agreed = PeeringRow { told: Some("limited".into()), ..agreed };
            assert_eq!(store.peerings().list().await?, std::slice::from_ref(&agreed));
            assert_eq!(store.peerings().of_peer(&agreed.peer).await?, std::slice::from_ref(&agreed));
            Ok::<_, Error>(())
        })
        .await;
    }
}
