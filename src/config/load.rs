//! Reads the configuration and tells everything that is wrong with it at once.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Config, MediaStorage,
    layers::{Node, PREFIX},
};

/// A configuration, and where it came from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// The file, if there was one.
    pub file: Option<PathBuf>,
    /// Which keys were set, and where; every other key has its default.
    pub origins: BTreeMap<String, Origin>,
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf),
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {} could not be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The offending line isn't repeated: it may hold a secret.
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("unknown key `{key}` ({origin}){}", did_you_mean(.nearest.as_deref()))]
    UnknownKey { key: String, origin: Origin, nearest: Option<String> },
    #[error("`{key}` ({origin}): {message}")]
    BadValue { key: String, origin: Origin, message: String },
    #[error("environment variable {0}: the value is not valid UTF-8")]
    NotText(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default()
}

impl Config {
    /// Reads `file`, if there is one, and lays `variables` over it. Relative paths start at the file's folder.
    ///
    /// Errors: every unknown key and every bad value, each with where it was set.
    pub fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Loaded, ConfigError> {
        let mut tree = match file {
            Some(path) => read(path)?,
            None => Node::Section(BTreeMap::new()),
        };
        let mut problems: Vec<_> = tree.overlay(variables).into_iter().map(Problem::NotText).collect();

        let shown_file = file.unwrap_or(Path::new("the defaults"));
        let known = known_keys();
        problems.extend(remove_unknown(&mut tree, &known, shown_file));
        let origins = known
            .keys()
            .filter_map(|key| Some((key.clone(), origin(tree.find(&segments(key))?, shown_file))))
            .filter(|(key, _)| known[key] == Kind::Value)
            .collect();

        let mut config = read_values(tree, shown_file, &mut problems);
        problems.extend(contradictions(&config, shown_file, &origins));
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }

        let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let base = std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .map_err(|source| ConfigError::Read { path: folder.to_owned(), source })?;
        config.resolve_paths(&base);
        Ok(Loaded { config, file: file.map(Path::to_owned), origins })
    }

    /// Every key with its value, dots between sections, as an operator may see it: secrets are hidden, `None` is unset.
    pub fn summary(&self) -> BTreeMap<String, Option<String>> {
        let mut keys = BTreeMap::new();
        walk(&plain(self), "", &mut |key, value| {
            let shown = match value {
                Value::Object(_) => return,
                Value::Null => None,
                Value::String(text) => Some(format!("{text:?}")),
                value => Some(value.to_string()),
            };
            keys.insert(key.to_owned(), shown);
        });
        keys
    }
}

fn read(path: &Path) -> Result<Node, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let table = text.parse::<toml::Table>().map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start).min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        ConfigError::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: error.message().replace('\n', ", "),
        }
    })?;
    Ok(Node::from_table(table))
}

/// Reads what the tree holds; a bad value is reported and its default read instead, so that all are found in one go.
fn read_values(mut tree: Node, file: &Path, problems: &mut Vec<Problem>) -> Config {
    loop {
        let mut whole = tree.clone();
        whole.fill_up(&defaults());
        let error = match serde_path_to_error::deserialize::<_, Config>(whole) {
            Ok(config) => return config,
            Err(error) => error,
        };
        // An error inside a list belongs to the list.
        let key = error.path().to_string();
        let key = key.split('[').next().unwrap_or_default().trim_end_matches('.').to_owned();
        let message = error.inner().message().trim_end().to_owned();
        let Some(node) = tree.remove(&segments(&key)) else {
            // Nothing but our own mistake leads here; the default configuration always reads.
            problems.push(Problem::BadValue { key, origin: Origin::File(file.to_owned()), message });
            return Config::default();
        };
        problems.push(Problem::BadValue { key, origin: origin(&node, file), message });
    }
}

/// Values that are good each alone and impossible together.
fn contradictions(config: &Config, file: &Path, origins: &BTreeMap<String, Origin>) -> Vec<Problem> {
    let problem = |(key, message): (&str, String)| Problem::BadValue {
        key: key.to_owned(),
        origin: origins.get(key).cloned().unwrap_or_else(|| Origin::File(file.to_owned())),
        message,
    };
    small_memory(config).into_iter().chain(half_a_bucket(config)).map(problem).collect()
}

fn small_memory(config: &Config) -> Option<(&'static str, String)> {
    let costs = &config.accounts.argon2;
    // RFC 9106, 3.1: the memory size is at least 8 times the parallelism, in KiB.
    let is_small = costs.memory_kib < 8 * costs.parallelism;
    is_small.then(|| {
        let message = format!("found {}; expected at least 8 times accounts.argon2.parallelism", costs.memory_kib);
        ("accounts.argon2.memory_kib", message)
    })
}

/// What a bucket can't be spoken to with.
fn half_a_bucket(config: &Config) -> Vec<(&'static str, String)> {
    let (s3, expected_both) = (&config.media.s3, "found nothing; expected it beside the other half of the login");
    let has = [s3.access_key_id.is_some(), s3.secret_access_key.is_some()];
    let is_plain = s3.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http") && !s3.allow_http;
    let wrong = [
        (
            s3.bucket.is_none(),
            "media.s3.bucket",
            "found nothing; expected the bucket's name, for media.storage is \"s3\"",
        ),
        (has == [false, true], "media.s3.access_key_id", expected_both),
        (has == [true, false], "media.s3.secret_access_key", expected_both),
        (is_plain, "media.s3.endpoint", "found http://; expected https://, unless media.s3.allow_http is set"),
    ];
    let wrong = wrong.into_iter().filter(|(is_wrong, ..)| *is_wrong && config.media.storage == MediaStorage::S3);
    wrong.map(|(_, key, message)| (key, message.to_owned())).collect()
}

// === known keys ===

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Section,
    Value,
}

/// Every key there is, with the names of its sections before it.
pub(super) fn known_keys() -> BTreeMap<String, Kind> {
    let mut keys = BTreeMap::new();
    walk(&defaults(), "", &mut |key, value| {
        keys.insert(key.to_owned(), if value.is_object() { Kind::Section } else { Kind::Value });
    });
    keys
}

fn defaults() -> Value {
    plain(&Config::default())
}

fn plain(config: &Config) -> Value {
    serde_json::to_value(config).expect("the configuration is plain data")
}

fn walk(value: &Value, prefix: &str, visit: &mut impl FnMut(&str, &Value)) {
    let Some(keys) = value.as_object() else { return };
    for (key, value) in keys {
        let path = join(prefix, key);
        visit(&path, value);
        walk(value, &path, visit);
    }
}

/// Takes what is unknown out of the tree and reports it: each key of a known section, an unknown section as a whole.
fn remove_unknown(tree: &mut Node, known: &BTreeMap<String, Kind>, file: &Path) -> Vec<Problem> {
    let mut unknown = Vec::new();
    find_unknown(tree, &[], known, &mut unknown);
    let report = |path: Vec<String>| {
        let quoted = |key: &String| if key.contains('.') { format!("{key:?}") } else { key.clone() };
        let key = path.iter().map(quoted).collect::<Vec<_>>().join(".");
        let node = tree.remove(&path.iter().map(String::as_str).collect::<Vec<_>>()).expect("it was just seen there");
        let origin = origin(&node, file);
        if known.get(&key) == Some(&Kind::Section) {
            let message = format!("found a single value; expected the section [{key}] with its keys");
            return Problem::BadValue { key, origin, message };
        }
        if known.contains_key(&key) {
            let message = "found a section; expected a single value".to_owned();
            return Problem::BadValue { key, origin, message };
        }
        let nearest = nearest(&key, known).map(|nearest| match &origin {
            Origin::File(_) => nearest.to_owned(),
            Origin::Variable(_) => format!("{PREFIX}{}", nearest.to_uppercase().replace('.', "__")),
        });
        Problem::UnknownKey { key, origin, nearest }
    };
    unknown.into_iter().map(report).collect()
}

fn find_unknown(node: &Node, section: &[String], known: &BTreeMap<String, Kind>, unknown: &mut Vec<Vec<String>>) {
    let Node::Section(keys) = node else { return };
    for (key, node) in keys {
        let path = [section, std::slice::from_ref(key)].concat();
        // A key in quotes may have a dot in it; ours have none.
        if key.contains('.') {
            unknown.push(path);
            continue;
        }
        match (known.get(&path.join(".")), node) {
            (Some(Kind::Section), Node::Section(_)) => find_unknown(node, &path, known, unknown),
            (Some(Kind::Value), Node::File(_) | Node::Variable { .. }) => {}
            _ => unknown.push(path),
        }
    }
}

/// The key most like `unknown`: the same name in another section, else the one fewest edits away.
fn nearest<'a>(unknown: &str, known: &'a BTreeMap<String, Kind>) -> Option<&'a str> {
    let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    if let Some(misplaced) = known.keys().find(|key| name(key) == name(unknown)) {
        return Some(misplaced);
    }
    let edits_allowed = (unknown.len() / 3).max(1);
    known
        .keys()
        .map(|key| (strsim::damerau_levenshtein(key, unknown), key))
        .min()
        .filter(|(edits, _)| *edits <= edits_allowed)
        .map(|(_, key)| key.as_str())
}

/// Where a value, or the first value of a section, was set.
fn origin(node: &Node, file: &Path) -> Origin {
    match node {
        Node::Variable { name, .. } => Origin::Variable(name.clone()),
        Node::File(_) => Origin::File(file.to_owned()),
        Node::Section(keys) => {
            keys.values().next().map_or_else(|| Origin::File(file.to_owned()), |node| origin(node, file))
        }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

fn segments(key: &str) -> Vec<&str> {
    key.split('.').collect()
}

#[cfg(test)]
mod tests;
