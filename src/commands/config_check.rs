//! `comity config check`.

use std::io::Write;

use super::Failure;
use crate::config::Loaded;

/// Prints `ok`, where the configuration came from, what is probably not meant, and every value in effect.
pub fn check(loaded: &Loaded, out: &mut impl Write) -> Result<(), Failure> {
    match &loaded.file {
        Some(file) => writeln!(out, "ok: {}", file.display())?,
        None => writeln!(out, "ok: no file, the defaults")?,
    }
    for warning in loaded.warnings() {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(out)?;
    for (key, value) in loaded.config.summary() {
        let value = value.unwrap_or_else(|| "(not set)".to_owned());
        match loaded.origins.get(&key) {
            Some(origin) => writeln!(out, "{key} = {value}  # {origin}")?,
            None => writeln!(out, "{key} = {value}")?,
        }
    }
    writeln!(out, "\n# database in use: {}", loaded.config.database_url())?;
    Ok(())
}
