//! What an admin does with a link.

use fabric::management::LinkWay;
use futures_util::{FutureExt as _, future::BoxFuture};
use model::Millis;
use ruma::ServerName;
use store::{Write, broker_links};
use url::Url;

use super::{Links, LinksError, ask::THEIRS, give::OURS, offer::Theirs, word_of};
use crate::vault::password;
use crate::{
    keys::wall_clock as now,
    trust::{Audited, Author},
};

/// No address of a broker is longer.
const LONGEST: usize = 2_048;

impl Links {
    /// Says how this server logs in at the broker of `peer`, which is not asked any more. `uri`: with user, password, virtual
    /// host and whatever RabbitMQ takes; it reads and writes there as that user may. In force on running servers within seconds.
    ///
    /// The peer's broker has an exchange `fed.in.US` for shovels, and `fed.out.US` for upstreams.
    pub async fn set_by_hand(
        &self,
        peer: &ServerName,
        uri: &str,
        link: Option<LinkWay>,
        author: &Author,
    ) -> Result<(), LinksError> {
        self.check_wanted(peer)?;
        let is_uri = uri.len() <= LONGEST && Url::parse(uri).is_ok_and(|url| matches!(url.scheme(), "amqp" | "amqps"));
        if !is_uri {
            // It is not repeated: it may hold a password.
            return Err(LinksError::Address("`uri` is of the form amqps://USER:PASSWORD@HOST/VHOST".to_owned()));
        }
        self.begin(peer).await?;
        let link = link.map(|way| word_of(way).to_owned());
        let theirs = serde_json::to_string(&Theirs::Admin { uri: uri.to_owned(), link }).unwrap_or_default();
        let sealed = self.shared.vault.seal(peer.as_str(), THEIRS, &theirs)?;
        self.write("bus.link_set", peer, author, |write, now| {
            broker_links::set_by_hand(write, peer, Some(&sealed), now);
        })
        .await
    }

    /// The peer is asked again how to log in at its broker.
    pub async fn unset_by_hand(&self, peer: &ServerName, author: &Author) -> Result<(), LinksError> {
        self.check_wanted(peer)?;
        self.write("bus.link_unset", peer, author, |write, now| broker_links::set_by_hand(write, peer, None, now)).await
    }

    /// Gives the peer's user at our broker another password. Whoever is connected by the old one is cut off; the peer asks for
    /// the new one as soon as it notices.
    pub async fn rotate(&self, peer: &ServerName, author: &Author) -> Result<(), LinksError> {
        self.check_wanted(peer)?;
        self.begin(peer).await?;
        let sealed = self.shared.vault.seal(peer.as_str(), OURS, &password()?)?;
        self.write("bus.link_rotate", peer, author, |write, now| broker_links::set_ours(write, peer, &sealed, now))
            .await
    }

    /// Begins a link: with a password, unless there is one.
    pub(super) async fn begin(&self, peer: &ServerName) -> Result<(), LinksError> {
        let sealed = self.shared.vault.seal(peer.as_str(), OURS, &password()?)?;
        let mut write = Write::new();
        broker_links::begin(&mut write, peer, &sealed, now());
        self.store().commit(write).await?;
        Ok(())
    }

    fn check_wanted(&self, peer: &ServerName) -> Result<(), LinksError> {
        let is_wanted = self.wanted().contains_key(peer);
        if is_wanted { Ok(()) } else { Err(LinksError::NotLinked(peer.to_owned())) }
    }

    async fn write(
        &self,
        action: &str,
        peer: &ServerName,
        author: &Author,
        change: impl Fn(&mut Write, Millis) + Send + Sync,
    ) -> Result<(), LinksError> {
        let changed = |_: i64| -> BoxFuture<'static, Result<Audited<()>, LinksError>> {
            let mut write = Write::new();
            change(&mut write, now());
            async move { Ok(Audited { write, before: None, after: None, outcome: () }) }.boxed()
        };
        self.shared.peers.trust().audited(action, peer.as_str(), author, changed).await?;
        self.ask_soon(peer);
        self.shared.wake.notify_one();
        Ok(())
    }
}
