//! Tests of the command line.

use clap::{CommandFactory as _, error::ErrorKind};

use super::{user::UserCommand, *};

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn comity_alone_serves() {
    let arguments = parse("comity").expect("it is right");
    assert!(arguments.command.is_none() && arguments.config.is_none());
}

#[test]
fn the_configuration_file_can_stand_before_and_after_the_command() {
    for line in ["comity --config a.toml serve", "comity serve --config a.toml", "comity -c a.toml"] {
        assert_eq!(parse(line).expect("it is right").config.as_deref(), Some(Path::new("a.toml")), "{line}");
    }
}

#[test]
fn users_are_made_listed_changed_and_closed() {
    let user = |line| match parse(line).expect("it is right").command {
        Some(Command::User { command }) => command,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        user("comity user create alice --admin --password-stdin"),
        UserCommand::Create { name, admin: true, password_stdin: true } if name == "alice"
    ));
    assert!(matches!(user("comity user list"), UserCommand::List));
    assert!(matches!(user("comity user deactivate bob --erase"), UserCommand::Deactivate { erase: true, .. }));
    assert!(matches!(
        user("comity user set-password bob"),
        UserCommand::SetPassword { password_stdin: false, keep_sessions: false, .. }
    ));
}

#[test]
fn help_has_examples_and_a_wrong_word_has_a_hint() {
    let help = parse("comity --help").expect_err("help is not a command");
    assert_eq!(help.kind(), ErrorKind::DisplayHelp);
    assert!(help.to_string().contains("comity user create alice"), "{help}");
    let wrong = parse("comity user crate alice").expect_err("it is misspelt");
    assert!(wrong.to_string().contains("create"), "{wrong}");
}

#[test]
fn an_error_is_told_with_its_causes_a_line_each() {
    let missing = load(Some(Path::new("/nowhere/config.toml")), std::iter::empty()).expect_err("it isn't there");
    let lines = report(&missing);
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines[0], "comity: the configuration file /nowhere/config.toml could not be read");
    assert!(lines[1].starts_with("  because: No such file"), "{lines:?}");
}

#[test]
fn config_check_prints_ok_and_every_value_but_no_secret() {
    let variables = [("COMITY__REGISTRATION__TOKEN", "s4711"), ("COMITY__LISTEN__CLIENT", "[::1]:9000")];
    let loaded =
        load(None, variables.map(|(name, value)| (name.into(), value.into())).into_iter()).expect("it is right");
    let mut out = Vec::new();
    config_check::check(&loaded, &mut out).expect("memory takes everything");
    let out = String::from_utf8(out).expect("it is text");
    assert!(out.starts_with("ok: no file, the defaults\n"), "{out}");
    assert!(out.contains("listen.client = \"[::1]:9000\"  # environment variable COMITY__LISTEN__CLIENT\n"), "{out}");
    assert!(out.contains("registration.token = \"[secret]\""), "{out}");
    assert!(out.contains("public_baseurl = (not set)\n"), "{out}");
    assert!(!out.contains("s4711"), "{out}");
}
