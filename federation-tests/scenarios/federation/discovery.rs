//! How a server is found by its name, step by step, as it looks from outside.

use std::net::{IpAddr, SocketAddr};

use federation_tests::{Client, Engine, FakePeer, Heard, Network, Reply, Server, enc};
use serde_json::json;

struct Scene {
    network: Network,
    a: Server,
    alice: Client,
}

impl Scene {
    async fn set() -> Self {
        let (network, [a]) = Network::start(&Engine::Sqlite, ["a.test"]).await;
        let alice = a.register_with_secret("alice").await;
        Self { network, a, alice }
    }

    /// Somebody who answers at `address` for `name`, with a certificate for `host`.
    async fn peer(&self, name: &str, address: SocketAddr, host: &str) -> FakePeer {
        let peer = FakePeer::listen(&self.network, name, address, &[host]).await;
        let profile = Reply::Json(200, json!({ "displayname": name }));
        peer.reply("GET", "/_matrix/federation/v1/query/profile", profile);
        peer
    }

    fn spare(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.network.spare_ip(), port)
    }

    async fn ask(&self, name: &str) -> u16 {
        self.alice.get(&format!("profile/{}", enc(&format!("@somebody:{name}")))).await.status
    }

    /// Lets Alice's server ask `name`, which must lead to `peer`, and answers how it was asked.
    async fn finds(&self, name: &str, peer: &FakePeer) -> Heard {
        let answer = self.alice.get(&format!("profile/{}", enc(&format!("@somebody:{name}")))).await.ok();
        assert_eq!(answer["displayname"], peer.name.as_str(), "{name} led to somebody else");
        peer.heard().into_iter().find(|heard| heard.path.ends_with("/query/profile")).expect("it was asked")
    }

    fn was_asked(&self, name: &str) -> bool {
        self.network.names.questions().iter().any(|question| question.name == name)
    }
}

#[tokio::test]
async fn an_address_with_a_port_is_what_it_says() {
    let scene = Scene::set().await;
    let address = scene.spare(18_448);
    let name = address.to_string();
    let peer = scene.peer(&name, address, &address.ip().to_string()).await;
    let heard = scene.finds(&name, &peer).await;
    assert_eq!(heard.host, name);
    assert_eq!(heard.sni, None, "addresses are not named in TLS");
}

#[tokio::test]
async fn an_address_without_a_port_means_8448() {
    let scene = Scene::set().await;
    let address = scene.spare(8448);
    let name = address.ip().to_string();
    let peer = scene.peer(&name, address, &name).await;
    assert_eq!(scene.finds(&name, &peer).await.host, name);
}

#[tokio::test]
async fn a_name_with_a_port_is_looked_up_and_nothing_else_is_asked() {
    let scene = Scene::set().await;
    let address = scene.spare(18_449);
    scene.network.names.host("d.test", &[address.ip()]);
    scene.network.names.service("_matrix-fed._tcp.d.test", &[(1, 1, 1, "wrong.test")]);
    let peer = scene.peer("d.test:18449", address, "d.test").await;
    let heard = scene.finds("d.test:18449", &peer).await;
    assert_eq!(heard.host, "d.test:18449");
    assert_eq!(heard.sni.as_deref(), Some("d.test"));
    assert!(!scene.was_asked("_matrix-fed._tcp.d.test"));
}

#[tokio::test]
async fn a_service_record_leads_to_host_and_port_but_the_name_stays() {
    let scene = Scene::set().await;
    for (service, name) in [("_matrix-fed._tcp", "new.test"), ("_matrix._tcp", "old.test")] {
        let address = scene.spare(18_450);
        scene.network.names.host(name, &[scene.network.spare_ip()]);
        scene.network.names.host(&format!("host.{name}"), &[address.ip()]);
        scene.network.names.service(&format!("{service}.{name}"), &[(10, 5, 18_450, &format!("host.{name}"))]);
        let peer = scene.peer(name, address, name).await;
        let heard = scene.finds(name, &peer).await;
        assert_eq!(heard.host, name, "the Host is the server's name");
        assert_eq!(heard.sni.as_deref(), Some(name), "so is the name in TLS");
    }
}

#[tokio::test]
async fn the_new_service_record_is_asked_before_the_old_one() {
    let scene = Scene::set().await;
    let address = scene.spare(18_451);
    scene.network.names.host("host.both.test", &[address.ip()]);
    scene.network.names.service("_matrix-fed._tcp.both.test", &[(10, 5, 18_451, "host.both.test")]);
    scene.network.names.service("_matrix._tcp.both.test", &[(10, 5, 9, "host.both.test")]);
    let peer = scene.peer("both.test", address, "both.test").await;
    scene.finds("both.test", &peer).await;
    assert!(!scene.was_asked("_matrix._tcp.both.test"));
}

#[tokio::test]
async fn the_record_of_first_priority_is_tried_first_and_the_next_when_it_fails() {
    let scene = Scene::set().await;
    let (first, second) = (scene.spare(18_452), scene.spare(18_453));
    scene.network.names.host("first.many.test", &[first.ip()]);
    scene.network.names.host("second.many.test", &[second.ip()]);
    let records = [(20, 0, 18_453, "second.many.test"), (10, 0, 18_452, "first.many.test")];
    scene.network.names.service("_matrix-fed._tcp.many.test", &records);
    let second = scene.peer("many.test", second, "many.test").await;
    // Nobody is at the first yet.
    scene.finds("many.test", &second).await;

    let scene = Scene::set().await;
    let (first, second) = (scene.spare(18_452), scene.spare(18_453));
    scene.network.names.host("first.many.test", &[first.ip()]);
    scene.network.names.host("second.many.test", &[second.ip()]);
    scene.network.names.service("_matrix-fed._tcp.many.test", &records);
    let first = scene.peer("many.test", first, "many.test").await;
    let second = scene.peer("many.test", second, "many.test").await;
    scene.finds("many.test", &first).await;
    assert!(second.heard().is_empty());
}

#[tokio::test]
async fn without_any_record_it_is_the_name_itself_at_8448() {
    let scene = Scene::set().await;
    let address = scene.spare(8448);
    scene.network.names.host("plain.test", &[address.ip()]);
    let peer = scene.peer("plain.test", address, "plain.test").await;
    let heard = scene.finds("plain.test", &peer).await;
    assert_eq!(heard.host, "plain.test");
    assert!(scene.was_asked("_matrix-fed._tcp.plain.test"));
}

#[tokio::test]
async fn an_address_that_is_dead_is_passed_over_for_the_next() {
    let scene = Scene::set().await;
    let address = scene.spare(8448);
    scene.network.names.host("two.test", &[scene.network.spare_ip(), address.ip()]);
    let peer = scene.peer("two.test", address, "two.test").await;
    scene.finds("two.test", &peer).await;
}

// === delegation by well-known ===

#[tokio::test]
async fn a_domain_delegates_by_well_known() {
    let scene = Scene::set().await;
    let ip = scene.network.spare_ip();
    // To an address, to a name with a port, to a name with a record, to a name without one.
    let to_address = scene.spare(18_454);
    let cases: [(&str, String, SocketAddr, &str); 4] = [
        ("w1.test", to_address.to_string(), to_address, ""),
        ("w2.test", "real.w2.test:18455".to_owned(), scene.spare(18_455), "real.w2.test"),
        ("w3.test", "real.w3.test".to_owned(), scene.spare(18_456), "real.w3.test"),
        ("w4.test", "real.w4.test".to_owned(), scene.spare(8448), "real.w4.test"),
    ];
    let _ = ip;
    for (domain, server, address, host) in cases {
        if !delegate(&scene, domain, &server).await {
            return;
        }
        if !host.is_empty() {
            scene.network.names.host(host, &[address.ip()]);
        }
        if domain == "w3.test" {
            scene.network.names.host("host.w3.test", &[address.ip()]);
            scene.network.names.service("_matrix-fed._tcp.real.w3.test", &[(1, 1, address.port(), "host.w3.test")]);
            // What the domain itself says does not count any more.
            scene.network.names.service("_matrix-fed._tcp.w3.test", &[(1, 1, 9, "host.w3.test")]);
        }
        let certified = if host.is_empty() { address.ip().to_string() } else { host.to_owned() };
        let peer = scene.peer(domain, address, &certified).await;
        let heard = scene.finds(domain, &peer).await;
        assert_eq!(heard.host, server, "the Host of {domain} is what it delegates to");
        assert_eq!(heard.sni.as_deref().unwrap_or_default(), host);
    }
}

/// Whether `domain` now delegates to `server`: the port of HTTPS may be closed to this user.
async fn delegate(scene: &Scene, domain: &str, server: &str) -> bool {
    let port = Network::well_known_port();
    if port.is_none() {
        eprintln!("SKIPPED: delegation by well-known needs port 443, which this user may not open");
    }
    let Some(port) = port else { return false };
    scene.network.delegate(domain, server, port).await;
    true
}

// === names that lead nowhere good ===

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_answer_and_not_a_wait() {
    let scene = Scene::set().await;
    let began = std::time::Instant::now();
    assert!(scene.ask("nowhere.test").await >= 400);
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_accepted() {
    let scene = Scene::set().await;
    let address = scene.spare(8448);
    scene.network.names.host("wrong.test", &[address.ip()]);
    let peer = scene.peer("wrong.test", address, "right.test").await;
    assert!(scene.ask("wrong.test").await >= 400);
    assert!(peer.heard().is_empty(), "{:?}", peer.heard());
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_accepted() {
    let scene = Scene::set().await;
    let elsewhere = Network::new();
    let address = scene.spare(8448);
    scene.network.names.host("self.test", &[address.ip()]);
    let peer = FakePeer::listen(&elsewhere, "self.test", address, &["self.test"]).await;
    assert!(scene.ask("self.test").await >= 400);
    assert!(peer.heard().is_empty(), "{:?}", peer.heard());
}

#[tokio::test]
async fn private_addresses_are_not_connected_to_unless_that_is_allowed() {
    let network = Network::new();
    let builder = network.server(&Engine::Sqlite, "a.test").await;
    let a = builder.set("federation", "allow_private_addresses", false).start().await;
    let alice = a.register_with_secret("alice").await;
    let scene = Scene { network, a, alice };
    let address = scene.spare(8448);
    scene.network.names.host("inside.test", &[address.ip()]);
    let (by_name, by_address) = ("inside.test".to_owned(), address.ip().to_string());
    let peer = FakePeer::listen(&scene.network, "inside.test", address, &["inside.test", &by_address]).await;
    for name in [by_name, by_address] {
        assert!(scene.ask(&name).await >= 400);
    }
    assert!(peer.heard().is_empty(), "{:?}", peer.heard());
    // Nor addresses in disguise.
    for disguise in ["[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[64:ff9b::7f00:1]"] {
        assert!(scene.ask(disguise).await >= 400, "{disguise}");
    }
}

#[tokio::test]
async fn the_operator_is_told_each_step_of_finding_a_server() {
    let scene = Scene::set().await;
    let address = scene.spare(18_460);
    scene.network.names.host("host.steps.test", &[address.ip()]);
    scene.network.names.service("_matrix-fed._tcp.steps.test", &[(10, 5, 18_460, "host.steps.test")]);
    let _peer = scene.peer("steps.test", address, "steps.test").await;
    let config = scene.a.folder().join("config.toml");
    let resolve = async |name: &str| {
        let mut command = std::process::Command::new(federation_tests::binary());
        command.args(["federation", "resolve", name, "--config"]).arg(&config);
        // Not in this thread, for the names are answered in it.
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("it is not cancelled").expect("the binary runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (found, said) = resolve("steps.test").await;
    assert!(found, "{said}");
    let ip: IpAddr = address.ip();
    for word in ["_matrix-fed._tcp.steps.test", "host.steps.test", "18460", &ip.to_string(), "well-known"] {
        assert!(said.contains(word), "{word} is not mentioned:\n{said}");
    }
    let (found, said) = resolve("nowhere.test").await;
    assert!(!found, "{said}");
}

#[tokio::test]
async fn the_operator_decides_where_others_go_and_whether_they_see_public_rooms() {
    let network = Network::new();
    let builder = network.server(&Engine::Sqlite, "a.test").await;
    let builder = builder.set("federation", "well_known_server", "chat.a.test:443");
    let a = builder.set("federation", "public_rooms", false).start().await;
    let b = network.server(&Engine::Sqlite, "b.test").await.start().await;
    let peer = FakePeer::start(&network, "peer.test").await;
    let well_known = "/.well-known/matrix/server";
    assert_eq!(a.anonymous().get(well_known).await.ok(), json!({ "m.server": "chat.a.test:443" }));
    b.anonymous().get(well_known).await.refused(404, "M_NOT_FOUND");
    let rooms = "/_matrix/federation/v1/publicRooms";
    peer.get(&a, rooms).await.refused(403, "M_FORBIDDEN");
    assert!(peer.get(&b, rooms).await.ok()["chunk"].is_array());
}
