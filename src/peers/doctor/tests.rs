//! Tests of how findings become an examination.

use super::*;

fn doctor(config: PeersConfig) -> Doctor {
    let key = crate::testing::key_of(ruma::server_name!("a.test"));
    Doctor::new(Arc::new(key), config).expect("nothing has to be reached")
}

fn found(examination: &Examination, step: Step) -> &Finding {
    let mut found = examination.findings.iter().filter(|finding| finding.step == step);
    let first = found.next().unwrap_or_else(|| panic!("no {step}"));
    assert!(found.next().is_none(), "{step} is there twice");
    first
}

#[tokio::test]
async fn a_name_that_is_none_is_a_fault_and_everything_else_is_skipped() {
    let examination = doctor(PeersConfig::default()).examine(" b test ").await;
    assert_eq!(examination.server_name, "b test");
    assert_eq!(examination.outcome, Outcome::Fault);
    assert_eq!(examination.findings.len(), Step::ALL.len());
    assert_eq!(found(&examination, Step::Name).outcome, Outcome::Fault);
    assert_eq!(examination.count(Outcome::Skipped), Step::ALL.len() - 1);
}

#[tokio::test]
async fn this_server_is_no_peer_of_itself_and_without_federation_nobody_is() {
    let examination = doctor(PeersConfig::default()).examine("A.test").await;
    assert_eq!(found(&examination, Step::Configuration).outcome, Outcome::Fault);
    assert_eq!(found(&examination, Step::WellKnown).outcome, Outcome::Skipped);
    let off = PeersConfig { enabled: false, ..PeersConfig::default() };
    let examination = doctor(off).examine("b.test").await;
    assert_eq!(found(&examination, Step::Configuration).outcome, Outcome::Fault);
    assert_eq!(found(&examination, Step::Tcp).outcome, Outcome::Skipped);
}

#[tokio::test]
async fn an_address_inside_is_never_connected_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let examination = doctor(PeersConfig::default()).examine(&address.to_string()).await;
    let addresses = found(&examination, Step::Addresses);
    assert_eq!(addresses.outcome, Outcome::Fault);
    let remedy = addresses.remedy.as_ref().expect("there is one");
    assert!(remedy.what.contains("allow_private_addresses"), "{}", remedy.what);
    assert_eq!(found(&examination, Step::Tcp).outcome, Outcome::Skipped);
    let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(connected.is_err(), "it was connected to");
}

#[test]
fn a_well_known_file_that_cannot_be_read_is_a_fault_where_nothing_else_leads_there() {
    let unread = || {
        let mut chart = Chart::default();
        chart.note(Finding::warning(Step::WellKnown, "a web page", Remedy::theirs("answer JSON")));
        chart
    };
    let outcome = |findings: Vec<Finding>| {
        findings.iter().find(|finding| finding.step == Step::WellKnown).map(|finding| finding.outcome)
    };
    assert_eq!(outcome(unread().complete("no connection")), Some(Outcome::Fault));
    let mut reached = unread();
    reached.note(Finding::ok(Step::Http, "it answers"));
    assert_eq!(outcome(reached.complete("no time")), Some(Outcome::Warning));
}

#[tokio::test]
async fn an_examination_ends_in_time_and_says_what_it_had_no_time_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let mut doctor = doctor(PeersConfig { allow_private_addresses: true, ..PeersConfig::default() });
    doctor.deadline = Duration::from_millis(300);
    let examination = doctor.examine(&address.to_string()).await;
    assert_eq!(found(&examination, Step::Tcp).outcome, Outcome::Ok);
    let tls = found(&examination, Step::Tls);
    assert_eq!(tls.outcome, Outcome::Skipped);
    assert!(tls.seen.contains("no time"), "{}", tls.seen);
}

#[tokio::test]
async fn a_server_examines_others_by_its_own_configuration() {
    store::testing::on_each_engine(async |store| {
        let peers = crate::testing::alone(ruma::server_name!("a.test"), store);
        let examination = peers.examine("b.test").await.expect("the configuration is good");
        assert_eq!(examination.examined_by, "a.test");
        assert_eq!(found(&examination, Step::Configuration).outcome, Outcome::Fault);
        Ok::<_, store::Error>(())
    })
    .await;
}
