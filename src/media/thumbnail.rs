//! Small pictures of files, made when somebody asks and kept beside them.

use std::{io::BufReader, time::Duration};

use metrics::counter;
use store::media::ContentRow;
use tokio::{fs::File, sync::OwnedSemaphorePermit, task::spawn_blocking, time::timeout};
use tracing::error;

use crate::{
    Fit, Item, Media, MediaError, Mxc, Reach, Wanted,
    files::Key,
    scale::{ScaleError, Small, scale},
};

/// How long one waits for one's turn to have a picture scaled.
const LONGEST_QUEUE: Duration = Duration::from_secs(30);

/// How long a picture may be on its way from the bucket.
const LONGEST_WAY: Duration = Duration::from_secs(60);

/// What a small picture can be, and how its file is called.
const KINDS: [(&str, &str); 2] = [(".jpg", "image/jpeg"), (".png", "image/png")];

impl Media {
    /// A small picture of what `mxc` names: at least as large as wanted where the sizes and the picture allow.
    ///
    /// Errors: as [`Self::find`]; `NoPicture` and `TooLargeToScale`.
    pub async fn thumbnail(
        &self,
        mxc: &Mxc,
        wanted: Wanted,
        reach: Reach<'_>,
        wait: Duration,
    ) -> Result<Item, MediaError> {
        let (content, source) = self.open_content(mxc, reach, wait).await?;
        if let Some(item) = self.made_before(&content, &wanted).await? {
            return Ok(item);
        }
        let turn = timeout(LONGEST_QUEUE, self.shared.scaling.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(MediaError::Busy) };
        // Somebody else may have had it made meanwhile.
        if let Some(item) = self.made_before(&content, &wanted).await? {
            return Ok(item);
        }
        let local = timeout(LONGEST_WAY, source.local(&self.shared.files, is_picture)).await;
        let made = match local.map_err(|_| MediaError::Busy)?? {
            Some(file) => make(file, wanted, turn).await,
            None => Err(MediaError::NoPicture),
        };
        let outcome = if made.is_ok() { "made" } else { "refused" };
        counter!("comity_media_thumbnails_total", "outcome" => outcome).increment(1);
        let small = made?;
        let (suffix, _) = KINDS[usize::from(small.is_png)];
        let key = Key::thumbnail(&content.sha256, &format!("{}{suffix}", stem(&wanted)));
        let mut draft = self.shared.files.draft().await?;
        draft.write(&small.bytes).await?;
        draft.keep_as(&self.shared.files, &key).await?;
        self.made_before(&content, &wanted).await?.ok_or(MediaError::NotFound)
    }

    async fn made_before(&self, content: &ContentRow, wanted: &Wanted) -> Result<Option<Item>, MediaError> {
        let stem = stem(wanted);
        for (suffix, content_type) in KINDS {
            let key = Key::thumbnail(&content.sha256, &format!("{stem}{suffix}"));
            if let Some(source) = self.shared.files.find(&key).await? {
                let file_name = Some(format!("thumbnail{suffix}"));
                let (size, tag) = (source.size(), format!("{}{stem}", content.sha256));
                return Ok(Some(Item { content_type: content_type.to_owned(), file_name, size, tag, source }));
            }
        }
        Ok(None)
    }
}

fn stem(wanted: &Wanted) -> String {
    let (width, height) = wanted.frame();
    let fit = match wanted.fit {
        Fit::Crop => "crop",
        Fit::Scale => "scale",
    };
    format!("-{width}x{height}-{fit}")
}

/// Whether a file that begins so can be one: what can't isn't worth its way from the bucket.
fn is_picture(head: &[u8]) -> bool {
    image::guess_format(head).is_ok()
}

/// The turn lasts as long as the work does, which goes on when nobody waits for it any more.
async fn make(source: File, wanted: Wanted, turn: OwnedSemaphorePermit) -> Result<Small, MediaError> {
    let source = source.into_std().await;
    let work = move || {
        let _turn = turn;
        scale(BufReader::new(source), &wanted)
    };
    match spawn_blocking(work).await {
        Ok(Ok(small)) => Ok(small),
        Ok(Err(ScaleError::NoPicture)) => Err(MediaError::NoPicture),
        Ok(Err(ScaleError::TooLarge)) => Err(MediaError::TooLargeToScale),
        Ok(Err(ScaleError::Io(error))) => Err(error.into()),
        Err(died) => {
            error!(error = &died as &dyn std::error::Error, "a picture could not be scaled");
            Err(MediaError::NoPicture)
        }
    }
}
