//! Stories about files that come in pieces.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use ruma::{UserId, user_id};
use sha2::{Digest as _, Sha256};
use store::testing::on_each_engine;

use crate::{
    Announced, Described, MediaError, Mxc, Progress, Reach,
    partial::Partial,
    tests::{Body, Rig, bytes_of, nobody, on_each_body},
};

fn alice() -> &'static UserId {
    user_id!("@alice:a.test")
}

fn announced(length: u64, sha256: Option<String>) -> Announced {
    let described = Described { content_type: Some("text/plain".to_owned()), file_name: Some("../a/y.txt".to_owned()) };
    Announced { described, length, sha256 }
}

impl Rig {
    async fn announce(&self, length: u64) -> Result<Mxc, MediaError> {
        Ok(self.media.announce(alice(), announced(length, None)).await?.mxc)
    }

    async fn append(&self, mxc: &Mxc, offset: u64, bytes: &'static [u8]) -> Result<Progress, MediaError> {
        self.media.append(alice(), &mxc.id, offset, None, whole(bytes)).await
    }
}

fn whole(bytes: &'static [u8]) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream::iter(bytes.chunks(3).map(|piece| Ok(Bytes::from_static(piece))))
}

fn broken(bytes: &'static [u8]) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    stream::iter([Ok(Bytes::from_static(bytes)), Err(io::ErrorKind::ConnectionReset.into())])
}

#[tokio::test]
async fn what_came_before_a_connection_broke_is_kept_and_the_rest_follows_it() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let mxc = rig.announce(11).await?;
        assert!(matches!(rig.find(&mxc, Reach::Ours).await, Err(MediaError::NotYetUploaded)));
        let broke = rig.media.append(alice(), &mxc.id, 0, None, broken(b"hello")).await;
        assert!(matches!(broke, Err(MediaError::BrokenOff)), "{broke:?}");
        assert_eq!(rig.media.progress(alice(), &mxc.id).await?.offset, 5);
        for wrong in [0, 4, 6, 11] {
            let refused = rig.append(&mxc, wrong, b"!!").await;
            assert!(matches!(refused, Err(MediaError::WrongOffset { offset: 5 })), "{refused:?}");
        }
        let too_much = rig.append(&mxc, 5, b" world, and more").await;
        assert!(matches!(too_much, Err(MediaError::TooLarge { limit: 11 })), "{too_much:?}");
        let at = rig.media.progress(alice(), &mxc.id).await?.offset;
        let rest: &'static [u8] = &b" world"[usize::try_from(at - 5).expect("it is small")..];
        let done = rig.append(&mxc, at, rest).await?;
        assert_eq!((done.offset, done.length, done.expires_at), (11, 11, None));
        let item = rig.find(&mxc, Reach::Ours).await?;
        assert_eq!((item.content_type.as_str(), item.file_name.as_deref()), ("text/plain", Some("y.txt")));
        assert_eq!(bytes_of(item).await, b"hello world");
        assert_eq!(rig.files(), 1);
        // Who has not heard that it is whole hears it again.
        assert_eq!(rig.media.progress(alice(), &mxc.id).await?, done);
        assert_eq!(rig.append(&mxc, 11, b"").await?, done);
        assert!(matches!(rig.append(&mxc, 0, b"hello").await, Err(MediaError::WrongOffset { offset: 11 })));
        assert!(matches!(rig.media.abandon(alice(), &mxc.id).await, Err(MediaError::Filled)));
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn what_does_not_hash_to_what_was_said_is_not_taken() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let right = Sha256::digest(b"hello");
        let mxc = rig.announce(5).await?;
        let wrong = rig.media.append(alice(), &mxc.id, 0, Some(&right), whole(b"hallo")).await;
        assert!(matches!(wrong, Err(MediaError::WrongHash)), "{wrong:?}");
        // A piece that is to be checked counts whole or not at all.
        let broke = rig.media.append(alice(), &mxc.id, 0, Some(&right), broken(b"hel")).await;
        assert!(matches!(broke, Err(MediaError::BrokenOff)), "{broke:?}");
        assert_eq!(rig.media.progress(alice(), &mxc.id).await?.offset, 0);
        assert_eq!(rig.media.append(alice(), &mxc.id, 0, Some(&right), whole(b"hello")).await?.expires_at, None);

        let hash = Some(crate::files::hex(&right).to_ascii_uppercase());
        let mxc = rig.media.announce(alice(), announced(5, hash)).await?.mxc;
        assert!(matches!(rig.append(&mxc, 0, b"hallo").await, Err(MediaError::WrongHash)));
        assert!(matches!(rig.media.progress(alice(), &mxc.id).await, Err(MediaError::NotFound)));
        assert!(matches!(rig.find(&mxc, Reach::Ours).await, Err(MediaError::NotFound)));
        assert_eq!(rig.files(), 1);
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_coming_is_its_uploaders_and_is_given_up_in_time() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let mxc = rig.announce(5).await?;
        rig.append(&mxc, 0, b"he").await?;
        let bob = user_id!("@bob:a.test");
        assert!(matches!(rig.media.progress(bob, &mxc.id).await, Err(MediaError::NotFound)));
        assert!(matches!(rig.media.append(bob, &mxc.id, 2, None, whole(b"llo")).await, Err(MediaError::NotFound)));
        assert!(matches!(rig.media.abandon(bob, &mxc.id).await, Err(MediaError::NotFound)));
        assert!(matches!(rig.media.progress(alice(), "../../etc/passwd").await, Err(MediaError::NotFound)));
        assert_eq!(rig.media.progress(alice(), &mxc.id).await?.offset, 2);

        let other = rig.announce(5).await?;
        rig.append(&other, 0, b"he").await?;
        rig.media.abandon(alice(), &other.id).await?;
        assert!(matches!(rig.media.progress(alice(), &other.id).await, Err(MediaError::NotFound)));
        assert_eq!(rig.files(), 1);

        rig.now.fetch_add(25 * 60 * 60 * 1000, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(rig.append(&mxc, 2, b"llo").await, Err(MediaError::NotFound)));
        let empty = rig.media.announce(alice(), announced(0, None)).await?;
        assert_eq!((empty.length, empty.expires_at), (0, None));
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn one_at_a_time_sends_a_file() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let mxc = rig.announce(10).await?;
        let held = Partial::open(&rig.media.shared.files, &mxc.id).await?.expect("nobody holds it");
        assert!(matches!(rig.append(&mxc, 0, b"hello").await, Err(MediaError::Locked)));
        assert!(matches!(rig.media.abandon(alice(), &mxc.id).await, Err(MediaError::Locked)));
        assert_eq!(rig.media.progress(alice(), &mxc.id).await?.offset, 0);
        drop(held);
        assert_eq!(rig.append(&mxc, 0, b"hello").await?.offset, 5);
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn nodes_that_share_a_bucket_go_on_with_each_others_files() {
    on_each_engine(async |store| {
        let body = Body::Bucket(Arc::default());
        let nodes = [Rig::on(body.clone(), store.clone(), nobody).await, Rig::on(body, store, nobody).await];
        let mxc = nodes[0].announce(11).await?;
        let broke = nodes[0].media.append(alice(), &mxc.id, 0, None, broken(b"hello")).await;
        assert!(matches!(broke, Err(MediaError::BrokenOff)), "{broke:?}");
        assert_eq!(nodes[1].media.progress(alice(), &mxc.id).await?.offset, 5);
        assert!(matches!(nodes[1].append(&mxc, 4, b"!").await, Err(MediaError::WrongOffset { offset: 5 })));
        // Both are sent what follows at once, and neither forgets what it has said that it has.
        let (first, second) = tokio::join!(nodes[0].append(&mxc, 5, b" wor"), nodes[1].append(&mxc, 5, b" w"));
        let (first, second) = (first?.offset, second.map_or(7, |progress| progress.offset));
        assert_eq!((first, second.max(7)), (9, second));
        assert_eq!(nodes[0].media.progress(alice(), &mxc.id).await?.offset, 9);
        let ends = tokio::join!(nodes[0].append(&mxc, 9, b"ld"), nodes[1].append(&mxc, 9, b"ld"));
        let is_whole = |end: &Result<Progress, MediaError>| {
            let is_late = matches!(end, Err(MediaError::Locked | MediaError::WrongOffset { .. }));
            is_late || end.as_ref().is_ok_and(|progress| progress.expires_at.is_none())
        };
        assert!(is_whole(&ends.0) && is_whole(&ends.1), "{ends:?}");
        for node in &nodes {
            let progress = node.media.progress(alice(), &mxc.id).await?;
            assert_eq!((progress.offset, progress.expires_at), (11, None));
            assert_eq!(bytes_of(node.find(&mxc, Reach::Ours).await?).await, b"hello world");
            assert_eq!(node.local_files(), 0);
        }
        let objects = nodes[0].objects();
        assert!(objects.iter().all(|name| name.starts_with("of/ours/files/")) && objects.len() == 1, "{objects:?}");
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn what_was_sent_until_the_sender_was_gone_goes_to_the_bucket() {
    on_each_engine(async |store| {
        let rig = Rig::on(Body::Bucket(Arc::default()), store, nobody).await;
        let mxc = rig.announce(11).await?;
        let stuck = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"hello"))]).chain(stream::pending());
        let sending = rig.media.append(alice(), &mxc.id, 0, None, stuck);
        assert!(tokio::time::timeout(Duration::from_millis(20), sending).await.is_err());
        let goes_on = async || loop {
            match rig.append(&mxc, 5, b" world").await {
                Err(MediaError::Locked | MediaError::WrongOffset { offset: 0 }) => tokio::task::yield_now().await,
                done => return done,
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(10), goes_on()).await.expect("it was kept")?;
        assert_eq!((done.offset, done.expires_at), (11, None));
        assert_eq!(rig.files(), 1);
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn a_file_of_very_many_pieces_is_put_together_on_the_way() {
    on_each_engine(async |store| {
        let rig = Rig::on(Body::Bucket(Arc::default()), store, nobody).await;
        let mxc = rig.announce(1_020).await?;
        for at in 0..1_010 {
            assert_eq!(rig.append(&mxc, at, b"x").await?.offset, at + 1);
        }
        assert!(rig.objects().len() < 20, "{} pieces", rig.objects().len());
        rig.append(&mxc, 1_010, b"0123456789").await?;
        let bytes = bytes_of(rig.find(&mxc, Reach::Ours).await?).await;
        assert!(bytes.len() == 1_020 && bytes.ends_with(b"xx0123456789"));
        Ok::<_, MediaError>(())
    })
    .await;
}
