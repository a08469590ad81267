//! Changing the key: the next one waits in its file until the server starts, then the old one is retired.
//!
//! Until then a running server goes on to sign with the old one, so it can't be retired before: what it signs later than
//! its published end counts nowhere.
//!
//! The private half of the last retired key is kept, for one thing: it signs what this server says of its keys, beside the new one,
//! so that servers which are pinned to it see that it was this server who changed its key.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use base64::Engine as _;
use model::Millis;
use peers::RetiredKey;
use tracing::{info, warn};

use super::{BASE64, FILE_NAME, KeyError, KeyFile};

/// The file of the key that is used from the next start on.
const NEXT: &str = "next.key";
/// The public halves of keys that were used before, and until when.
const RETIRED: &str = "retired.keys";
/// The key that was retired last, as it lay in its file.
const PREVIOUS: &str = "previous.key";

/// All keys of this server.
#[derive(Debug)]
pub struct Keys {
    /// What it signs with.
    pub current: KeyFile,
    /// What it will sign with after the next start.
    pub next: Option<KeyFile>,
    /// What it signed with before, oldest first.
    pub retired: Vec<RetiredKey>,
}

impl Keys {
    /// Reads the keys in `folder`, and makes none.
    pub fn load(folder: &Path) -> Result<Self, KeyError> {
        let current = existing(&folder.join(FILE_NAME))?.ok_or_else(|| KeyError::None { folder: folder.to_owned() })?;
        Ok(Self { current, next: existing(&folder.join(NEXT))?, retired: retired(folder)? })
    }
}

/// Makes the key that this server signs with from its next start on.
pub fn rotate(folder: &Path) -> Result<KeyFile, KeyError> {
    let Keys { next, .. } = Keys::load(folder)?;
    if let Some(next) = next {
        return Err(KeyError::Waiting { key_id: next.key_id() });
    }
    let key = KeyFile::generate()?;
    let path = folder.join(NEXT);
    key.store(folder, &path).map_err(|source| KeyError::Write { path, source })?;
    Ok(key)
}

/// Puts the next key, if one is waiting, in the place of the current one. For the start of the server, before it signs.
pub fn take_next(folder: &Path, now: Millis) -> Result<(), KeyError> {
    let (path, next_path) = (folder.join(FILE_NAME), folder.join(NEXT));
    let Some(next) = existing(&next_path)? else { return Ok(()) };
    if let Some(current) = existing(&path)? {
        keep(folder)?;
        retire(folder, &current, now)?;
        info!(key.id = next.key_id(), "signing by {} from now on; {} is retired", next.key_id(), current.key_id());
    }
    let moved = fs::rename(&next_path, &path).and_then(|()| fs::File::open(folder)?.sync_all());
    moved.map_err(|source| KeyError::Write { path, source })
}

/// The key that was retired last, private half included: what this server says of its keys bears its signature too.
///
/// `None` where no key was retired yet, or by an older version, which kept only the public half.
pub fn previous(folder: &Path) -> Result<Option<KeyFile>, KeyError> {
    let Some(key) = existing(&folder.join(PREVIOUS))? else { return Ok(None) };
    let is_retired =
        retired(folder)?.iter().any(|old| old.key_id == key.key_id() && old.public_key == key.public_key());
    if !is_retired {
        warn!(key.id = key.key_id(), "{PREVIOUS} is not in {RETIRED}: it is not used");
    }
    Ok(is_retired.then_some(key))
}

/// The keys that this server signed with before, oldest first.
pub fn retired(folder: &Path) -> Result<Vec<RetiredKey>, KeyError> {
    let path = folder.join(RETIRED);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|source| KeyError::Read { path: path.clone(), source })?,
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|line| parse(line).ok_or_else(|| KeyError::MalformedLine { path: path.clone() })).collect()
}

fn existing(path: &Path) -> Result<Option<KeyFile>, KeyError> {
    match KeyFile::load(path) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps the current key under another name, in the place of the one before it.
fn keep(folder: &Path) -> Result<(), KeyError> {
    let path = folder.join(PREVIOUS);
    let gone = match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        gone => gone,
    };
    let kept = gone.and_then(|()| fs::hard_link(folder.join(FILE_NAME), &path));
    kept.map_err(|source| KeyError::Write { path, source })
}

/// Writes down that `key` was used until `now`: once for each key, whole or not at all.
fn retire(folder: &Path, key: &KeyFile, now: Millis) -> Result<(), KeyError> {
    let path = folder.join(RETIRED);
    let mut keys = retired(folder)?;
    keys.retain(|old| old.key_id != key.key_id());
    keys.push(RetiredKey { key_id: key.key_id(), public_key: key.public_key(), expired_at: now });
    let mut text = "# Keys that this server used to sign with: id, public key, until when (milliseconds since 1970).\n\
                    # They are published, so that what they signed can still be checked.\n"
        .to_owned();
    for RetiredKey { key_id, public_key, expired_at } in &keys {
        text.push_str(&format!("{key_id} {} {expired_at}\n", BASE64.encode(public_key)));
    }
    let unfinished = folder.join(format!("{RETIRED}.{}.new", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| KeyError::Write { path: path.clone(), source })
}

fn parse(line: &str) -> Option<RetiredKey> {
    let mut words = line.split_whitespace();
    let (Some(key_id), Some(public_key), Some(expired_at), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    let public_key = <[u8; 32]>::try_from(BASE64.decode(public_key).ok()?.as_slice()).ok()?;
    key_id.starts_with("ed25519:").then_some(())?;
    Some(RetiredKey { key_id: key_id.to_owned(), public_key, expired_at: expired_at.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_key_waits_for_a_start_and_then_the_old_one_is_retired() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let folder = folder.path();
        assert!(matches!(rotate(folder), Err(KeyError::None { .. })));
        let first = KeyFile::load_or_create(folder).expect("one is made");
        let second = rotate(folder).expect("another is made");
        assert!(matches!(rotate(folder), Err(KeyError::Waiting { key_id }) if key_id == second.key_id()));
        assert_eq!(KeyFile::load_or_create(folder).expect("it stays").key_id(), first.key_id());
        assert!(retired(folder).expect("there are none").is_empty());

        take_next(folder, 7).expect("it is waiting");
        take_next(folder, 8).expect("nothing is waiting");
        let keys = Keys::load(folder).expect("they are there");
        assert_eq!(keys.current.key_id(), second.key_id());
        assert!(keys.next.is_none());
        let old = RetiredKey { key_id: first.key_id(), public_key: first.public_key(), expired_at: 7 };
        assert_eq!(keys.retired, [old]);
        let kept = previous(folder).expect("it can be read").expect("it is kept");
        assert_eq!((kept.key_id(), kept.seed()), (first.key_id(), first.seed()));

        // Of two that were retired only the last is kept.
        rotate(folder).expect("another is made");
        take_next(folder, 9).expect("it is waiting");
        let kept = previous(folder).expect("it can be read").expect("it is kept");
        assert_eq!((kept.key_id(), kept.seed()), (second.key_id(), second.seed()));
        assert_eq!(retired(folder).expect("they are listed").len(), 2);
    }

    #[test]
    fn a_folder_of_an_older_version_has_no_previous_key_and_one_that_is_not_listed_is_not_used() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let folder = folder.path();
        KeyFile::load_or_create(folder).expect("one is made");
        assert!(previous(folder).expect("nothing is there").is_none());
        let foreign = KeyFile::generate().expect("there is randomness");
        foreign.store(folder, &folder.join(PREVIOUS)).expect("the folder is ours");
        assert!(previous(folder).expect("it can be read").is_none());
    }

    #[test]
    fn a_start_that_broke_off_while_it_changed_keys_is_made_good_by_the_next() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let folder = folder.path();
        let first = KeyFile::load_or_create(folder).expect("one is made");
        let second = rotate(folder).expect("another is made");
        // It had written down the retirement, and signed by the old key once more.
        retire(folder, &first, 7).expect("it is written");
        take_next(folder, 9).expect("it is waiting");
        let keys = Keys::load(folder).expect("they are there");
        assert_eq!(keys.current.key_id(), second.key_id());
        assert_eq!(keys.retired.iter().map(|old| old.expired_at).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn a_file_of_retired_keys_that_cannot_be_read_is_no_start() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        fs::write(folder.path().join(RETIRED), "ed25519:a AAAA 7\n").expect("it can be written");
        assert!(matches!(retired(folder.path()), Err(KeyError::MalformedLine { .. })));
    }
}
