//! `comity keys …`.

use std::{
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::Failure;
use crate::{
    config::Config,
    signing_key::{Keys, rotate},
};

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// List the signing keys, one a line: id, state, public key, and until when a retired one was used; tabs between
    List,
    /// Make a new signing key
    ///
    /// The server signs with it from its next start on. The old key is then retired: it is published with the time of
    /// that start, so that what it signed before can still be checked. Its private half is kept in `previous.key` until the next
    /// rotation: it signs what this server says of its keys, so that servers which have pinned it go over to the new one.
    Rotate,
    /// Print the public keys as JSON, as other servers are told them; never the private one
    Export,
}

/// Does it, and says on standard output what was done.
pub fn run(command: KeysCommand, config: &Config) -> Result<(), Failure> {
    execute(command, config, &mut io::stdout().lock())
}

fn execute(command: KeysCommand, config: &Config, out: &mut impl Write) -> Result<(), Failure> {
    match command {
        KeysCommand::List => list(&Keys::load(&config.keys_dir)?, out)?,
        KeysCommand::Rotate => {
            let next = rotate(&config.keys_dir)?;
            writeln!(out, "made {}; start the server again to sign with it", next.key_id())?;
        }
        KeysCommand::Export => {
            let exported = export(config.server_name.as_str(), &Keys::load(&config.keys_dir)?);
            writeln!(out, "{exported:#}")?;
        }
    }
    Ok(())
}

fn list(keys: &Keys, out: &mut impl Write) -> io::Result<()> {
    for old in &keys.retired {
        let until = UNIX_EPOCH + Duration::from_millis(u64::try_from(old.expired_at).unwrap_or(0));
        let until = humantime::format_rfc3339_seconds(until);
        writeln!(out, "{}\tretired\t{}\t{until}", old.key_id, text(old.public_key))?;
    }
    writeln!(out, "{}\tcurrent\t{}", keys.current.key_id(), text(keys.current.public_key()))?;
    if let Some(next) = &keys.next {
        writeln!(out, "{}\tnext\t{}", next.key_id(), text(next.public_key()))?;
    }
    Ok(())
}

fn export(server_name: &str, keys: &Keys) -> Value {
    let old = keys
        .retired
        .iter()
        .map(|old| (old.key_id.clone(), json!({ "key": text(old.public_key), "expired_ts": old.expired_at })));
    json!({
        "server_name": server_name,
        "verify_keys": { keys.current.key_id(): { "key": text(keys.current.public_key()) } },
        "old_verify_keys": old.collect::<Map<_, _>>(),
    })
}

fn text(public_key: [u8; 32]) -> String {
    STANDARD_NO_PAD.encode(public_key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing_key::{KeyFile, take_next};

    fn said(command: KeysCommand, config: &Config) -> String {
        let mut out = Vec::new();
        execute(command, config, &mut out).expect("it can be done");
        String::from_utf8(out).expect("it is text")
    }

    #[test]
    fn keys_are_listed_rotated_and_exported_without_what_is_private() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let config = Config { keys_dir: folder.path().to_owned(), ..Config::default() };
        let first = KeyFile::load_or_create(folder.path()).expect("one is made");
        assert!(said(KeysCommand::Rotate, &config).starts_with("made ed25519:a_"));
        let states = |text: &str| {
            let state = |line: &str| line.split('\t').nth(1).map(str::to_owned);
            text.lines().filter_map(state).collect::<Vec<_>>()
        };
        assert_eq!(states(&said(KeysCommand::List, &config)), ["current", "next"]);
        take_next(folder.path(), 1_700_000_000_000).expect("it is waiting");
        let listed = said(KeysCommand::List, &config);
        assert_eq!(states(&listed), ["retired", "current"]);
        assert!(listed.contains("2023-11-14T22:13:20Z"), "{listed}");

        let exported = said(KeysCommand::Export, &config);
        let json: Value = serde_json::from_str(&exported).expect("it is JSON");
        assert_eq!(json["old_verify_keys"][first.key_id()]["expired_ts"], 1_700_000_000_000_i64);
        let seed = STANDARD_NO_PAD.encode(first.seed());
        assert!(!exported.contains(&seed) && !listed.contains(&seed));
    }
}
