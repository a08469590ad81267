//! Stories about files, on a folder and a store of their own.

use std::{
    io::Cursor,
    path::Path,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use image::{DynamicImage, ImageFormat, RgbImage};
use object_store::{ObjectStore as _, memory::InMemory};
use peers::{PeerError, Streamed};
use ruma::{
    api::{
        OutgoingResponseExt as _,
        federation::authenticated_media::{Content, ContentMetadata, FileOrLocation, get_content},
    },
    http_headers::{ContentDisposition, ContentDispositionType},
    server_name, user_id,
};
use store::testing::on_each_engine;
use tempfile::TempDir;

use super::*;

type Piece = Result<Bytes, io::Error>;

/// Other servers, as a function of what they are asked for.
struct Others {
    answer: fn(&str) -> Result<FileOrLocation, PeerError>,
    asked: Arc<AtomicUsize>,
}

/// As far as Alice may.
fn everywhere() -> Reach<'static> {
    Reach::Everywhere(ruma::user_id!("@alice:a.test"))
}

impl remote::AskServers for Others {
    fn check_trust(&self, _: &ServerName, _: bool) -> Result<(), peers::TrustError> {
        Ok(())
    }

    fn file(
        &self,
        _: OwnedServerName,
        request: get_content::v1::Request,
    ) -> BoxFuture<'_, Result<Streamed, PeerError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            // Whoever asks at the same time has asked by then.
            tokio::task::yield_now().await;
            let answer = get_content::v1::Response::new(ContentMetadata::new(), (self.answer)(&request.media_id)?);
            let answer = answer.try_into_http_response::<Vec<u8>>().expect("it can be written");
            let (parts, body) = answer.into_parts();
            // As the network would: cut wherever it likes.
            let pieces: Vec<_> = body.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            Ok(Streamed { headers: parts.headers, body: stream::iter(pieces).boxed() })
        })
    }

    fn elsewhere(
        &self,
        _: OwnedServerName,
        address: String,
        _: Duration,
    ) -> BoxFuture<'_, Result<Streamed, PeerError>> {
        Box::pin(async move {
            let size = address.rsplit('/').next().and_then(|size| size.parse().ok()).ok_or_else(|| refused(404))?;
            let mut headers = http::HeaderMap::new();
            headers.insert("content-type", http::HeaderValue::from_static("text/plain"));
            let piece = Bytes::from(vec![b'x'; size]);
            Ok(Streamed { headers, body: stream::iter([Ok(piece)]).boxed() })
        })
    }
}

pub(crate) struct Rig {
    pub(crate) media: Media,
    folder: TempDir,
    body: Body,
    pub(crate) now: Arc<AtomicI64>,
    /// How often another server was asked.
    asked: Arc<AtomicUsize>,
}

/// Where the files of a rig are.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Folder,
    Bucket(Arc<InMemory>),
}

/// Tells a story on each engine, with files in a folder and in a bucket.
pub(crate) async fn on_each_body<E: std::fmt::Debug>(story: impl AsyncFn(Store, Body) -> Result<(), E>) {
    on_each_engine(async |store| story(store, Body::Folder).await).await;
    on_each_engine(async |store| story(store, Body::Bucket(Arc::default())).await).await;
}

impl Rig {
    /// A server whose peers answer by `answer`, given the media id.
    pub(crate) async fn new(store: Store, answer: fn(&str) -> Result<FileOrLocation, PeerError>) -> Self {
        Self::on(Body::Folder, store, answer).await
    }

    /// The same, with its files in `body`.
    pub(crate) async fn on(body: Body, store: Store, answer: fn(&str) -> Result<FileOrLocation, PeerError>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let now = Arc::new(AtomicI64::new(1_000_000_000));
        let asked = Arc::new(AtomicUsize::new(0));
        let clock = now.clone();
        let others = Box::new(Others { answer, asked: asked.clone() });
        let config = MediaConfig {
            max_upload: 1_000_000,
            max_remote: 1_000,
            idle_timeout: Duration::from_millis(50),
            ..MediaConfig::at(folder.path().join("media"))
        };
        let clock = Arc::new(move || clock.load(Ordering::SeqCst));
        let server_name = server_name!("a.test").to_owned();
        let path = files::Folder::open(config.path.clone()).await.expect("the folder is ours");
        let bucket = match &body {
            Body::Folder => None,
            Body::Bucket(objects) => Some(files::Bucket::new(objects.clone(), "/of/ours/")),
        };
        let files = files::Files::new(path, bucket);
        let media = Media::open_with(config, files, server_name, store, others, clock);
        Self { media, folder, body, now, asked }
    }

    async fn upload(&self, content_type: &str, bytes: &[u8]) -> Result<Mxc, MediaError> {
        let pieces: Vec<Piece> = bytes.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        self.upload_of(content_type, stream::iter(pieces)).await
    }

    async fn upload_of(
        &self,
        content_type: &str,
        body: impl futures_util::Stream<Item = Piece> + Send,
    ) -> Result<Mxc, MediaError> {
        let described =
            Described { content_type: Some(content_type.to_owned()), file_name: Some("../a/cat.png".to_owned()) };
        self.media.upload(user_id!("@alice:a.test"), described, body).await
    }

    pub(crate) async fn find(&self, mxc: &Mxc, reach: Reach<'_>) -> Result<Item, MediaError> {
        self.media.find(mxc, reach, Duration::ZERO).await
    }

    /// How many files there are in the folder, and in the bucket.
    pub(crate) fn files(&self) -> usize {
        self.local_files() + self.objects().len()
    }

    /// Loses every file that is whole.
    fn lose_files(&self) {
        if let Body::Bucket(objects) = &self.body {
            let names = objects.list(None).map_ok(|meta| meta.location).boxed();
            let lost = objects.delete_stream(names).try_collect::<Vec<_>>();
            lost.now_or_never().expect("it is in memory").expect("they can be removed");
        }
        std::fs::remove_dir_all(self.media.config().path.join("files")).expect("it is there");
    }

    /// What the files in the bucket are called.
    pub(crate) fn objects(&self) -> Vec<String> {
        let Body::Bucket(objects) = &self.body else { return Vec::new() };
        let listed = objects.list(None).map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>();
        listed.now_or_never().expect("it is in memory").expect("it can be listed")
    }

    /// How many files there are in the folder.
    pub(crate) fn local_files(&self) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).expect("it is a folder").map(|entry| entry.expect("it is there"));
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        count(self.folder.path())
    }
}

pub(crate) fn nobody(_: &str) -> Result<FileOrLocation, PeerError> {
    Err(PeerError::Disabled)
}

fn refused(status: u16) -> PeerError {
    let (errcode, message) = (None, "no".to_owned());
    PeerError::Refused { server: server_name!("b.test").to_owned(), status, errcode, message, retry_after: None }
}

pub(crate) async fn bytes_of(item: Item) -> Vec<u8> {
    let size = item.size;
    let pieces: Vec<Bytes> = item.read(0, size).await.expect("it opens").try_collect().await.expect("it is read");
    pieces.concat()
}

fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::new(width, height)).write_to(&mut bytes, ImageFormat::Png).expect("it can be written");
    bytes.into_inner()
}

#[tokio::test]
async fn what_was_uploaded_is_given_back_and_equal_files_are_kept_once() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        let first = rig.upload("image/png", &bytes).await?;
        let second = rig.upload("nonsense", &bytes).await?;
        assert_ne!(first, second);
        assert_eq!(rig.files(), 1);
        let item = rig.find(&first, Reach::Ours).await?;
        assert_eq!((item.content_type.as_str(), item.file_name.as_deref()), ("image/png", Some("cat.png")));
        assert_eq!(item.size, 300_000);
        let part: Vec<Bytes> = item.read(250, 10).await?.try_collect().await?;
        assert_eq!(part.concat(), bytes[250..260]);
        let item = rig.find(&second, Reach::Ours).await?;
        assert_eq!(item.content_type, "application/octet-stream");
        assert!(bytes_of(item).await == bytes);
        for nothing in ["nothing", "../../etc/passwd", ""] {
            let missing = rig.find(&Mxc::new(server_name!("a.test"), nothing), everywhere()).await;
            assert!(matches!(missing, Err(MediaError::NotFound)));
        }
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_ends_early_leaves_nothing() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let piece = || Ok(Bytes::from(vec![7; 200_000]));
        let cut = stream::iter([piece(), Err(io::Error::other("cut"))]);
        assert!(matches!(rig.upload_of("a/b", cut).await, Err(MediaError::BrokenOff)));
        let endless = stream::repeat_with(piece);
        assert!(matches!(rig.upload_of("a/b", endless).await, Err(MediaError::TooLarge { limit: 1_000_000 })));
        let stuck = stream::iter([piece()]).chain(stream::pending());
        assert!(matches!(rig.upload_of("a/b", stuck).await, Err(MediaError::TooSlow)));
        let stuck = stream::iter([piece()]).chain(stream::pending());
        let gone = tokio::time::timeout(Duration::from_millis(10), rig.upload_of("a/b", stuck)).await;
        assert!(gone.is_err());
        // The thread that was writing when its caller went away may still be at it.
        while rig.files() > 0 {
            tokio::task::yield_now().await;
        }
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn a_name_is_filled_once_by_who_made_it_and_those_who_wait_for_it_get_it() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let (alice, bob) = (user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        let mxc = rig.media.reserve(alice).await?.mxc;
        let body = || stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"hello"))]);
        assert!(matches!(rig.find(&mxc, Reach::Ours).await, Err(MediaError::NotYetUploaded)));
        let stolen = rig.media.fill(bob, &mxc, Described::default(), body()).await;
        assert!(matches!(stolen, Err(MediaError::NotYours)));
        let waiting = rig.media.find(&mxc, Reach::Ours, Duration::from_secs(60));
        let filling = rig.media.fill(alice, &mxc, Described::default(), body());
        let (found, filled) = tokio::join!(waiting, filling);
        filled?;
        assert_eq!(bytes_of(found?).await, b"hello");
        let again = rig.media.fill(alice, &mxc, Described::default(), body()).await;
        assert!(matches!(again, Err(MediaError::Filled)));

        let late = rig.media.reserve(alice).await?;
        rig.now.store(late.expires_at, Ordering::SeqCst);
        let filled = rig.media.fill(alice, &late.mxc, Described::default(), body()).await;
        assert!(matches!(filled, Err(MediaError::NotFound)));
        for _ in 0..100 {
            rig.media.reserve(alice).await?;
        }
        assert!(matches!(rig.media.reserve(alice).await, Err(MediaError::TooManyAwaited { .. })));
        Ok::<_, MediaError>(())
    })
    .await;
}

/// A server with one small file, called by some name, and what may go wrong with others.
fn one_file(media_id: &str) -> Result<FileOrLocation, PeerError> {
    let file = |bytes: &[u8], content_type: &str| {
        let disposition = ContentDisposition::new(ContentDispositionType::Inline).with_filename(Some("x/y.txt".into()));
        Ok(FileOrLocation::File(Content::new(bytes.to_owned(), content_type.to_owned(), disposition)))
    };
    match media_id {
        "text" => file(b"hello", "text/plain"),
        "liar" => file(b"<script>", "image/png"),
        "large" => file(&[0; 1001], "text/plain"),
        "elsewhere" => Ok(FileOrLocation::Location("https://cdn.b.test/5".to_owned())),
        "large_elsewhere" => Ok(FileOrLocation::Location("https://cdn.b.test/1001".to_owned())),
        "nowhere" => Ok(FileOrLocation::Location("https://127.0.0.1/secret".to_owned())),
        "broken" => Err(refused(500)),
        _ => Err(refused(404)),
    }
}

#[tokio::test]
async fn another_servers_file_is_fetched_once_and_kept() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, one_file).await;
        let mxc = Mxc::new(server_name!("b.test"), "text");
        assert!(matches!(rig.find(&mxc, Reach::Kept).await, Err(MediaError::NotFound)));
        let all = futures_util::future::join_all((0..10).map(|_| rig.find(&mxc, everywhere()))).await;
        for item in all {
            let item = item?;
            assert_eq!((item.content_type.as_str(), item.file_name.as_deref()), ("text/plain", Some("y.txt")));
            assert_eq!(bytes_of(item).await, b"hello");
        }
        assert_eq!(rig.asked.load(Ordering::SeqCst), 1);
        rig.find(&mxc, Reach::Kept).await?;
        assert!(matches!(rig.find(&mxc, Reach::Ours).await, Err(MediaError::NotFound)));

        // Its file is lost, but not for good.
        rig.lose_files();
        assert_eq!(bytes_of(rig.find(&mxc, everywhere()).await?).await, b"hello");
        assert_eq!(rig.asked.load(Ordering::SeqCst), 2);
        let liar = rig.find(&Mxc::new(server_name!("b.test"), "liar"), everywhere()).await?;
        assert_eq!(liar.content_type, "application/octet-stream");
        let elsewhere = rig.find(&Mxc::new(server_name!("b.test"), "elsewhere"), everywhere()).await?;
        assert_eq!((elsewhere.content_type.as_str(), elsewhere.size), ("text/plain", 5));
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn what_can_not_be_fetched_is_not_asked_for_again_for_a_while() {
    on_each_engine(async |store| {
        let rig = Rig::new(store, one_file).await;
        let expected = [
            ("large", RemoteFailure::TooLarge { limit: 1_000 }),
            ("large_elsewhere", RemoteFailure::TooLarge { limit: 1_000 }),
            ("nowhere", RemoteFailure::NotFound),
            ("broken", RemoteFailure::Unreachable),
            ("nothing", RemoteFailure::NotFound),
        ];
        for (id, expected) in expected {
            let before = rig.asked.load(Ordering::SeqCst);
            for _ in 0..3 {
                let answer = rig.find(&Mxc::new(server_name!("b.test"), id), everywhere()).await;
                assert!(matches!(answer, Err(MediaError::Remote { failure, .. }) if failure == expected), "{id}");
            }
            assert_eq!(rig.asked.load(Ordering::SeqCst), before + 1);
            rig.now.fetch_add(60_000, Ordering::SeqCst);
            assert!(rig.find(&Mxc::new(server_name!("b.test"), id), everywhere()).await.is_err());
            assert_eq!(rig.asked.load(Ordering::SeqCst), before + 2);
        }
        assert_eq!(rig.files(), 0);
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn a_thumbnail_is_made_once_for_equal_files_and_only_of_pictures() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store, nobody).await;
        let wanted = Wanted { width: 60, height: 60, fit: Fit::Crop };
        let small = async |mxc: &Mxc| rig.media.thumbnail(mxc, wanted, Reach::Ours, Duration::ZERO).await;
        // What it is said to be makes no difference.
        for content_type in ["image/png", "text/html"] {
            let mxc = rig.upload(content_type, &picture(300, 200)).await?;
            let item = small(&mxc).await?;
            assert_eq!(item.content_type, "image/jpeg");
            let bytes = bytes_of(item).await;
            let decoded = image::load_from_memory(&bytes).expect("it is a picture");
            assert_eq!((decoded.width(), decoded.height()), (96, 96));
            assert_eq!(rig.files(), 2);
        }
        let text = rig.upload("image/png", b"<svg onload=\"alert(1)\">").await?;
        assert!(matches!(small(&text).await, Err(MediaError::NoPicture)));
        Ok::<_, MediaError>(())
    })
    .await;
}

#[tokio::test]
async fn when_somebody_asked_is_written_down_now_and_then() {
    on_each_body(async |store, body| {
        let rig = Rig::on(body, store.clone(), nobody).await;
        let mxc = rig.upload("a/b", b"hello").await?;
        let made_at = rig.now.load(Ordering::SeqCst);
        for (later, expected) in [(1_000, made_at), (3_600_000, made_at + 3_601_000)] {
            rig.now.fetch_add(later, Ordering::SeqCst);
            rig.find(&mxc, Reach::Ours).await?;
            let row = store.media().find(&mxc.server, &mxc.id).await?.expect("it is there");
            assert_eq!(row.last_access_at, expected);
        }
        Ok::<_, MediaError>(())
    })
    .await;
}
