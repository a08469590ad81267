//! The last look at a file before it is kept under its name, whichever way it came: is it of a kind that is taken, and is there a
//! virus in it?

use metrics::counter;

use crate::{
    Media, MediaError,
    files::{Draft, Written},
    partial::Partial,
};

impl Media {
    /// Refuses a file by what it is said to be, so that it isn't even begun.
    pub(crate) fn check_declared(&self, content_type: &str) -> Result<(), MediaError> {
        self.config().kinds.check_declared(content_type).inspect_err(count_refusal)
    }

    /// Looks at a file that has come from `sender`, a user or a server.
    ///
    /// Errors: `KindNotAllowed`, `Infected`, `TooLargeToScan`, after which it must go; `NotScanned`.
    pub(crate) async fn inspect(&self, sender: &str, content_type: &str, draft: &mut Draft) -> Result<(), MediaError> {
        self.config().kinds.check(content_type, draft.head()).inspect_err(count_refusal)?;
        let Some(scanner) = &self.shared.scanner else { return Ok(()) };
        let (sha256, file) = (draft.sha256(), draft.reader().await?);
        scanner.check(sender, &sha256, file).await
    }

    /// As [`Self::inspect`], of a file that has come in pieces. `written`: what it holds.
    pub(crate) async fn inspect_whole(
        &self,
        sender: &str,
        content_type: &str,
        written: &Written,
        partial: &mut Partial,
    ) -> Result<(), MediaError> {
        self.config().kinds.check(content_type, &written.head).inspect_err(count_refusal)?;
        let Some(scanner) = &self.shared.scanner else { return Ok(()) };
        let file = partial.reader().await?;
        scanner.check(sender, &written.sha256, file).await
    }
}

fn count_refusal(_: &MediaError) {
    counter!("comity_media_type_refusals_total").increment(1);
}
