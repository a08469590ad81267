//! Tests of loading, and of the `config.toml` that comes with Comity.

use std::fs;

use super::*;

/// Loads a file with `text` and `variables`.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("config.toml");
    fs::write(&file, text).expect("the folder is ours");
    Config::load(Some(&file), variables.iter().map(|(name, value)| (name.into(), value.into())))
}

/// The lines of what is wrong, without the temporary folder.
fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let folder = std::env::temp_dir();
    match load(text, variables).expect_err("something is wrong") {
        ConfigError::Invalid(problems) => problems
            .iter()
            .map(|problem| {
                let line = problem.to_string();
                match line.split_once(folder.to_str().expect("it is text")) {
                    Some((before, after)) => {
                        format!("{before}config.toml{}", after.split_once("config.toml").expect("it is the file").1)
                    }
                    None => line,
                }
            })
            .collect(),
        error => vec![error.to_string()],
    }
}

#[test]
fn nothing_at_all_gives_the_defaults_below_the_current_folder() {
    let loaded = Config::load(None, std::iter::empty()).expect("the defaults are right");
    let here = std::env::current_dir().expect("there is a current folder");
    assert_eq!(loaded.config.server_name, "localhost");
    assert_eq!(loaded.config.data_dir, here.join("data"));
    assert_eq!(loaded.config.database_url().to_string(), format!("sqlite://{}", here.join("data/comity.db").display()));
    assert!(loaded.origins.is_empty());
    assert_eq!(loaded.warnings(), [""; 0]);
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let loaded =
        load("data_dir = \"d\"\nkeys_dir = \"/k\"\ndatabase.url = \"sqlite://x/y.db\"", &[]).expect("it is right");
    let folder = loaded.file.as_deref().and_then(Path::parent).expect("the file is in a folder");
    assert_eq!(loaded.config.data_dir, folder.join("d"));
    assert_eq!(loaded.config.keys_dir, Path::new("/k"));
    assert_eq!(loaded.config.database_url().to_string(), format!("sqlite://{}", folder.join("x/y.db").display()));
}

#[test]
fn the_database_follows_the_data_folder_unless_it_is_set() {
    let loaded = load("data_dir = \"/srv/comity\"", &[]).expect("it is right");
    assert_eq!(loaded.config.database_url().to_string(), "sqlite:///srv/comity/comity.db");
}

#[test]
fn the_environment_wins_and_is_read_as_the_type_of_the_key() {
    let variables = [
        ("COMITY__SERVER_NAME", "b.example"),
        ("COMITY__RATE_LIMITS__ENABLED", "false"),
        ("COMITY__RATE_LIMITS__LOGIN__BURST", "3"),
        ("COMITY__REGISTRATION__TOKEN", "12345"),
        ("COMITY__REGISTRATION__TOKENS", "one, two"),
        ("COMITY__SYNC__MAX_TIMEOUT", "1m 30s"),
        ("COMITY__PUBLIC_BASEURL", ""),
        ("COMITY_LOG", "debug"),
        ("UNRELATED", "x"),
    ];
    let loaded = load("server_name = \"a.example\"\npublic_baseurl = \"https://a.example\"", &variables);
    let Loaded { config, origins, .. } = loaded.expect("it is right");
    assert_eq!(config.server_name, "b.example");
    assert!(!config.rate_limits.enabled);
    assert_eq!((config.rate_limits.login.burst, config.rate_limits.login.per_second), (3, 0.2));
    let tokens: Vec<_> = config.registration.all_tokens().map(super::super::Secret::expose).collect();
    assert_eq!(tokens, ["12345", "one", "two"]);
    assert_eq!(config.sync.max_timeout.as_secs(), 90);
    assert_eq!(config.public_baseurl, None);
    assert_eq!(origins["server_name"], Origin::Variable("COMITY__SERVER_NAME".to_owned()));
    assert!(!origins.contains_key("public_baseurl"));
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_known_one() {
    let text = "severname = \"a.example\"\nmax_body = \"1 MiB\"\n[listen]\nclinet = \"127.0.0.1:1\"\n[zebra]\nx = 1";
    assert_eq!(
        problems(text, &[("COMITY__LISTN__CLIENT", "x"), ("COMITY__SYNC__PRESENC", "true")]),
        [
            "unknown key `listen.clinet` (config.toml); did you mean `listen.client`?",
            "unknown key `listn` (environment variable COMITY__LISTN__CLIENT); did you mean `COMITY__LISTEN`?",
            "unknown key `max_body` (config.toml); did you mean `client_api.max_body`?",
            "unknown key `severname` (config.toml); did you mean `server_name`?",
            "unknown key `sync.presenc` (environment variable COMITY__SYNC__PRESENC); did you mean `COMITY__SYNC__PRESENCE`?",
            "unknown key `zebra` (config.toml)",
        ]
    );
}

#[test]
fn every_bad_value_is_named_with_what_was_found_and_what_is_right() {
    let text = r#"
        server_name = "https://a.example"
        public_baseurl = "a.example"
        database.url = "mysql://u:hunter2@host/db"
        rooms.default_version = "13"
        accounts.argon2.iterations = 0
        accounts.access_token_lifetime = 300
        client_api.max_body = "large"
        rate_limits.messages.per_second = -1
        logging.format = "xml"
        logging.filter = "loud"
        metrics = true
        sync.presence = "maybe"
    "#;
    let found = problems(text, &[("COMITY__LISTEN__CLIENT", "localhost:8008")]);
    let expect = |start: &str, part: &str| {
        assert!(found.iter().any(|line| line.starts_with(start) && line.contains(part)), "{start} {part}: {found:#?}");
    };
    expect("`server_name` (config.toml): found \"https://a.example\";", "expected a domain");
    expect("`public_baseurl` (config.toml): found \"a.example\";", "expected a URL");
    expect("`database.url` (config.toml): found a URL of scheme \"mysql\";", "expected sqlite://");
    expect("`rooms.default_version` (config.toml): found \"13\";", "6, 7, 8, 9, 10, 11, 12");
    expect("`accounts.argon2.iterations` (config.toml): found 0;", "from 1 to 1000");
    expect("`accounts.access_token_lifetime` (config.toml): found 300;", "\"30s\"");
    expect("`client_api.max_body` (config.toml): found \"large\";", "\"4 MiB\"");
    expect("`rate_limits.messages.per_second` (config.toml): found -1;", "above 0");
    expect("`logging.format` (config.toml): found \"xml\";", "\"text\" or \"json\"");
    expect("`logging.filter` (config.toml): found \"loud\";", "debug");
    expect("`metrics` (config.toml): found a single value;", "[metrics]");
    expect("`sync.presence` (config.toml):", "expected a boolean");
    expect(
        "`listen.client` (environment variable COMITY__LISTEN__CLIENT): found \"localhost:8008\";",
        "127.0.0.1:8008",
    );
    assert_eq!(found.len(), 13, "{found:#?}");
    assert!(!found.join("\n").contains("hunter2"));
}

#[test]
fn a_secret_is_in_no_error_and_in_no_output() {
    let wrong = [
        "registration.token = 4711",
        "registration.tokens = \"s4711\"",
        "registration.tokens = [4711]",
        "registration.token = \"s4711",
        "registration.token = s4711",
        "registration.shared_secret = 4711.5",
        "registration.shared_secret = { s4711 = 1 }",
        "database.url = \"pg:s4711@host\"",
    ];
    for text in wrong {
        let lines = problems(text, &[]).join("\n");
        let value = lines.replace("`registration.shared_secret.s4711`", "");
        assert!(!value.contains("4711"), "{text}: {lines}");
    }
    let text = "registration.token = \"s4711\"\ndatabase.url = \"postgres://u:s4711@host/db?password=s4711\"";
    let loaded = load(text, &[]).expect("it is right");
    let output = format!("{loaded:?} {:?}", loaded.config.summary());
    assert!(!output.contains("s4711"), "{output}");
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let lines = problems("accounts.argon2 = { memory_kib = 8, parallelism = 2 }", &[]);
    assert_eq!(
        lines,
        ["`accounts.argon2.memory_kib` (config.toml): found 8; expected at least 8 times accounts.argon2.parallelism"]
    );
    let s3 = "media = { storage = \"s3\", s3 = { endpoint = \"http://10.0.0.1:9000\", access_key_id = \"me\" } }";
    let lines = problems(s3, &[]);
    assert_eq!(
        lines,
        [
            "`media.s3.bucket` (config.toml): found nothing; expected the bucket's name, for media.storage is \"s3\"",
            "`media.s3.secret_access_key` (config.toml): found nothing; expected it beside the other half of the login",
            "`media.s3.endpoint` (config.toml): found http://; expected https://, unless media.s3.allow_http is set",
        ]
    );
    assert!(load(&s3.replace("s3\",", "folder\","), &[]).is_ok());
}

#[test]
fn a_syntax_error_is_told_with_line_and_column() {
    let error = load("server_name = \"a.example\"\n[listen\n", &[]).expect_err("a bracket is missing");
    let ConfigError::Syntax { line, column, .. } = error else { panic!("{error}") };
    assert_eq!((line, column), (2, 8));
}

#[test]
fn an_odd_key_is_refused_and_nothing_breaks() {
    assert_eq!(problems("\"a.b\" = 1", &[]), ["unknown key `\"a.b\"` (config.toml)"]);
    assert_eq!(
        problems("\"listen.client\" = 1", &[]),
        ["unknown key `\"listen.client\"` (config.toml); did you mean `listen.client`?"]
    );
    assert_eq!(problems("", &[("COMITY__", "1")]), ["unknown key `` (environment variable COMITY__)"]);
    assert_eq!(
        problems("server_name.x = 1", &[]),
        ["`server_name` (config.toml): found a section; expected a single value"]
    );
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let warnings = |text| load(text, &[]).expect("it is right").warnings().join("\n");
    assert!(warnings("registration.enabled = true").contains("open to everyone"));
    assert!(warnings("registration.token = \"t\"").contains("registration.enabled is false"));
    assert!(warnings("public_baseurl = \"http://chat.example.org\"").contains("plain HTTP"));
    assert_eq!(warnings("public_baseurl = \"http://127.0.0.1:8008\""), "");
}

#[test]
fn a_file_with_secrets_that_everyone_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("config.toml");
    fs::write(&file, "registration = { enabled = true, token = \"t\" }").expect("the folder is ours");
    let warnings_of_mode = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("the file is ours");
        Config::load(Some(&file), std::iter::empty()).expect("it is right").warnings()
    };
    assert!(warnings_of_mode(0o644).join("").contains("chmod 600"));
    assert_eq!(warnings_of_mode(0o600), [""; 0]);
}

// === config.toml ===

const SHIPPED: &str = include_str!("../../../config.toml");

/// The shipped file with the examples switched on.
fn with_examples() -> String {
    let is_key = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    };
    let uncomment = |line: &'static str| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line);
    SHIPPED.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn config_toml_sets_everything_to_its_default() {
    let loaded = load(SHIPPED, &[]).expect("config.toml is right");
    let mut defaults = Config::default();
    defaults.resolve_paths(loaded.file.as_deref().and_then(Path::parent).expect("the file is in a folder"));
    assert_eq!(loaded.config.summary(), defaults.summary());
}

#[test]
fn config_toml_has_every_key_and_its_examples_are_right() {
    let loaded = load(&with_examples(), &[]).expect("the examples are right");
    let values = known_keys().into_iter().filter(|(_, kind)| *kind == Kind::Value).map(|(key, _)| key);
    let missing: Vec<_> = values.filter(|key| !loaded.origins.contains_key(key)).collect();
    assert!(missing.is_empty(), "config.toml does not tell of {missing:?}");
    let unset: Vec<_> = loaded.config.summary().into_iter().filter(|(_, value)| value.is_none()).collect();
    assert!(unset.is_empty(), "{unset:?}");
}

#[test]
fn config_toml_tells_something_about_every_key() {
    let lines: Vec<_> = SHIPPED.lines().collect();
    let mut told = false;
    for line in lines {
        let is_key = line.trim_start_matches("# ").split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        match line {
            "" => told = false,
            _ if is_key => assert!(told, "{line} stands there without a word"),
            _ if line.starts_with("# ") => told = true,
            _ => {}
        }
    }
}
