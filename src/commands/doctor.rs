//! `comity doctor`: what is wrong with the way to another server.

use std::{
    io::{self, Write},
    sync::Arc,
};

use clap::Args;
use model::SigningKey;
use peers::{
    Doctor, Examination,
    doctor::{Addressee, Finding, Outcome},
};

use ruma::OwnedServerName;

use super::Failure;
use crate::{
    config::Config,
    homeserver::{StartError, peers_config},
    signing_key::Keys,
};

/// Whom to examine, and for whom to write.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// The domain, as in the ids of its users
    #[arg(value_name = "DOMAIN")]
    server: String,
    /// Take it to be at HOST:PORT, whatever its name says, as a peer's endpoint does
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<OwnedServerName>,
    /// Print one JSON object, for tools
    #[arg(long)]
    json: bool,
}

/// Examines a server, and writes down what was found. Fails if there is a fault.
pub fn run(arguments: &DoctorArguments, config: &Config, out: &mut impl Write) -> Result<(), Failure> {
    let file = Keys::load(&config.keys_dir)?.current;
    let key = SigningKey::from_seed(config.server_name.clone(), file.version(), file.seed())
        .ok_or_else(|| StartError::KeyId(file.key_id()))?;
    let mut doctor = Doctor::new(Arc::new(key), peers_config(config)?)?;
    if let Some(endpoint) = &arguments.endpoint {
        doctor = doctor.by_way_of(endpoint.clone());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let examination = runtime.block_on(doctor.examine(&arguments.server));
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&examination)?)?;
    } else {
        write(&examination, out)?;
    }
    match examination.count(Outcome::Fault) {
        0 => Ok(()),
        1 => Err(format!("there is 1 fault on the way to {}", examination.server_name).into()),
        faults => Err(format!("there are {faults} faults on the way to {}", examination.server_name).into()),
    }
}

fn write(examination: &Examination, out: &mut impl Write) -> io::Result<()> {
    let Examination { server_name, examined_by, findings, took_ms, .. } = examination;
    writeln!(out, "{server_name}, as {examined_by} sees it:\n")?;
    for finding in findings {
        write_finding(server_name, finding, out)?;
    }
    let count = |outcome| examination.count(outcome);
    let (faults, warnings, good) = (count(Outcome::Fault), count(Outcome::Warning), count(Outcome::Ok));
    writeln!(out, "\nFaults: {faults}, warnings: {warnings}, good: {good}; took {took_ms} ms.")
}

fn write_finding(server_name: &str, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let Finding { step, subject, outcome, seen, remedy, .. } = finding;
    let subject = subject.as_ref().map(|subject| format!("{subject}: ")).unwrap_or_default();
    writeln!(out, "{outcome:<8} {step:<13} {subject}{seen}")?;
    let Some(remedy) = remedy else { return Ok(()) };
    let addressee = match remedy.addressee {
        Addressee::Us => "you".to_owned(),
        Addressee::Peer => format!("the admin of {server_name}"),
        Addressee::Both => format!("you, or the admin of {server_name}"),
    };
    writeln!(out, "{:22} -> for {addressee}: {}", "", remedy.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_signing_key_nobody_is_examined_and_none_is_made() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let config = Config { keys_dir: folder.path().join("keys"), ..Config::default() };
        let arguments = DoctorArguments { server: "b.test".to_owned(), endpoint: None, json: false };
        let failure = run(&arguments, &config, &mut Vec::new()).expect_err("there is no key");
        assert!(failure.to_string().contains("no signing key"), "{failure}");
        assert!(!config.keys_dir.exists());
    }
}
