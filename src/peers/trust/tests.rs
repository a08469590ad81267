use model::peer::{Override, PeerPattern};
use ruma::server_name;
use store::testing::on_each_engine;

use super::*;

fn trust(store: &Store, default_level: TrustLevel) -> Trust {
    let config = TrustConfig { default_level, ..TrustConfig::default() };
    Trust::new(store.clone(), server_name!("a.test").to_owned(), config)
}

fn author(reason: &str) -> Author {
    Author { actor: "@admin:a.test".into(), reason: reason.into() }
}

fn pattern(text: &str) -> PeerPattern {
    text.parse().expect("it is one")
}

fn level(level: TrustLevel) -> PeerChange {
    PeerChange { level: Some(level), ..PeerChange::default() }
}

#[tokio::test]
async fn a_change_counts_at_once_here_and_when_others_look() {
    on_each_engine(async |store| {
        let (here, elsewhere) = (trust(&store, TrustLevel::Limited), trust(&store, TrustLevel::Limited));
        here.load().await?;
        elsewhere.load().await?;
        let b = server_name!("b.test");
        let typing = |trust: &Trust| trust.allow(b, Capability::Typing, &Context::inbound()).is_ok();
        assert!(!typing(&here) && !typing(&elsewhere));
        here.change(&pattern("b.test"), &level(TrustLevel::Full), &author("we know them"), Some(0)).await?;
        assert!(typing(&here) && !typing(&elsewhere));
        elsewhere.look().await?;
        assert!(typing(&elsewhere));
        let over = Override { grant: model::peer::Grant::No, reason: "they asked for it".into() };
        let change = PeerChange { overrides: [(Capability::Typing, Some(over))].into(), ..PeerChange::default() };
        let view = here.change(&pattern("b.test"), &change, &author("as agreed"), None).await?;
        assert_eq!((view.level, view.revision), (TrustLevel::Full, 2));
        assert!(!typing(&here));
        here.remove(&pattern("b.test"), &author("over"), Some(2)).await?;
        assert_eq!(here.regard(b), Regard::of_level(TrustLevel::Limited));
        assert_eq!(here.verify_audit().await?, Ok(3));
        Ok::<_, ChangeError>(())
    })
    .await;
}

#[tokio::test]
async fn of_two_admins_who_edit_one_peer_one_is_told() {
    on_each_engine(async |store| {
        let trust = trust(&store, TrustLevel::Limited);
        let b = pattern("b.test");
        trust.change(&b, &level(TrustLevel::Full), &author("first"), None).await?;
        let edits = [TrustLevel::Blocked, TrustLevel::Restricted].map(|wish| {
            let (trust, b) = (trust.clone(), b.clone());
            async move { trust.change(&b, &level(wish), &author("second"), Some(1)).await }
        });
        let outcomes = futures_util::future::join_all(edits).await;
        let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert!(matches!(refused[..], [ChangeError::Outdated { current: 2, .. }]), "{refused:?}");
        // Those who say nothing of what they saw all come through, one after the other.
        let many = (0..8).map(|at| {
            let trust = trust.clone();
            async move {
                trust.change(&pattern(&format!("p{at}.test")), &level(TrustLevel::Full), &author("all"), None).await
            }
        });
        for outcome in futures_util::future::join_all(many).await {
            outcome?;
        }
        assert_eq!(trust.verify_audit().await?, Ok(10));
        Ok::<_, ChangeError>(())
    })
    .await;
}

#[tokio::test]
async fn a_change_that_makes_no_sense_changes_nothing() {
    on_each_engine(async |store| {
        let trust = trust(&store, TrustLevel::Limited);
        let b = pattern("b.test");
        let refused = async |change: PeerChange, why: &str| {
            let error = trust.change(&b, &change, &author(why), None).await;
            error.expect_err("it makes no sense").to_string()
        };
        assert!(refused(PeerChange::default(), "why").await.contains("`level`"));
        assert!(refused(level(TrustLevel::Full), " ").await.contains("`reason`"));
        let wrong = Override { grant: model::peer::Grant::Names, reason: "why".into() };
        let change = PeerChange { overrides: [(Capability::Typing, Some(wrong))].into(), ..level(TrustLevel::Full) };
        assert_eq!(refused(change, "why").await, "typing can't be `names`: it is one of no, yes");
        let keys = [("ed25519:1".to_owned(), "short".to_owned())].into();
        assert!(
            refused(PeerChange { pinned_keys: Some(keys), ..level(TrustLevel::Full) }, "why").await.contains("base64")
        );
        assert!(
            refused(PeerChange { expires_at: Some(Some(1)), ..level(TrustLevel::Full) }, "why")
                .await
                .contains("passed")
        );
        let ours = trust.change(&pattern("*.test"), &level(TrustLevel::Full), &author("why"), None).await;
        assert!(matches!(ours, Err(ChangeError::Ourselves(_))));
        assert!(trust.list().await?.is_empty());
        assert_eq!(trust.verify_audit().await?, Ok(0));
        Ok::<_, ChangeError>(())
    })
    .await;
}

#[tokio::test]
async fn a_peer_whose_settings_cannot_be_read_is_switched_off_until_it_is_set_anew() {
    on_each_engine(async |store| {
        let trust = trust(&store, TrustLevel::Full);
        let (b, name) = (pattern("b.test"), server_name!("b.test"));
        let over = Override { grant: model::peer::Grant::No, reason: "they asked for it".into() };
        let change = PeerChange { overrides: [(Capability::Typing, Some(over))].into(), ..level(TrustLevel::Full) };
        trust.change(&b, &change, &author("why"), None).await?;
        // A later version wrote something that this one doesn't know.
        let mut write = store::Write::new();
        write.run("UPDATE peers SET settings = '{\"curfew\":\"22:00\"}'", Vec::new());
        store.commit(write).await?;
        trust.load().await?;
        let refused = trust.allow(name, Capability::Events, &Context::inbound()).expect_err("nothing is known of it");
        assert_eq!(refused.rule().to_string(), "peer.inactive");
        for view in [trust.get(&b).await?.expect("it is set"), trust.list().await?.remove(0)] {
            assert_eq!((view.standing, view.level), (Standing::Inactive, TrustLevel::Full));
            assert!(view.alarm.is_some_and(|alarm| alarm.contains("curfew") && alarm.contains("set anew")));
        }
        // What changes only a part would make it look as if the rest were known.
        let part = PeerChange { notes: Some("hello".into()), ..PeerChange::default() };
        let error = trust.change(&b, &part, &author("why"), None).await.expect_err("the rest is not known");
        assert!(matches!(error, ChangeError::Unreadable(_)), "{error}");
        trust.move_pins(name, [("ed25519:1".to_owned(), "x".to_owned())].into()).await?;
        assert!(trust.get(&b).await?.is_some_and(|view| view.settings.pinned_keys.is_empty() && view.alarm.is_some()));
        let view = trust.change(&b, &level(TrustLevel::Limited), &author("why"), None).await?;
        assert_eq!((view.standing, view.alarm), (Standing::Active, None));
        trust.allow(name, Capability::Events, &Context::inbound()).expect("it is set");
        Ok::<_, ChangeError>(())
    })
    .await;
}

#[tokio::test]
async fn a_server_is_tried_again_where_something_waits_for_it_and_all_who_look_hear_of_it() {
    on_each_engine(async |store| {
        let (here, elsewhere) = (trust(&store, TrustLevel::Full), trust(&store, TrustLevel::Full));
        elsewhere.load().await?;
        let b = server_name!("b.test");
        assert!(!here.retry(b, &author("why")).await?, "nothing waits for it");
        assert_eq!(here.revision(), -1);
        let mut write = store::Write::new();
        store::outbox::push_to_device(&mut write, b, "{}");
        store.commit(write).await?;
        here.change(&pattern("c.test"), &level(TrustLevel::Full), &author("why"), None).await?;
        assert!(here.retry(b, &author("why")).await?);
        let mut changes = elsewhere.changes();
        elsewhere.look().await?;
        assert!(changes.has_changed().is_ok_and(|has_changed| has_changed));
        changes.mark_unchanged();
        assert_eq!(elsewhere.retries_after(0).await?, (2, vec![b.to_owned()]));
        assert_eq!(elsewhere.retries_after(2).await?, (2, vec![]));
        let last = elsewhere.audit(None, None, 1).await?.remove(0);
        assert_eq!((last.action.as_str(), last.subject.as_str()), ("peer.retry", "b.test"));
        assert_eq!(elsewhere.verify_audit().await?, Ok(2));
        Ok::<_, ChangeError>(())
    })
    .await;
}

#[tokio::test]
async fn what_happened_can_be_tried_with_another_level() {
    on_each_engine(async |store| {
        let trust = trust(&store, TrustLevel::Full);
        let b = server_name!("b.test");
        let context = Context::inbound();
        for _ in 0..3 {
            trust.allow(b, Capability::Typing, &context).expect("all is allowed");
            trust.allow(b, Capability::Events, &context).expect("all is allowed");
        }
        trust.allow(b, Capability::FirstContact, &context).expect("all is allowed");
        trust.allow(server_name!("c.test"), Capability::Typing, &context).expect("all is allowed");
        trust.write_acts().await;
        trust.allow(b, Capability::Typing, &context).expect("all is allowed");
        trust.write_acts().await;

        let simulation = trust.simulate(&pattern("b.test"), &level(TrustLevel::Restricted), 7).await?;
        let of = |capability| {
            let act = simulation.acts.iter().find(|act| act.capability == capability).expect("it happened");
            (act.allowed_then, act.allowed, act.refused, act.undecided)
        };
        assert_eq!(of(Capability::Typing), (4, 0, 4, 0));
        assert_eq!(of(Capability::Events), (3, 3, 0, 0));
        assert_eq!(of(Capability::FirstContact), (1, 0, 0, 1), "nobody looked whether they were contacts");
        assert!(trust.list().await?.is_empty(), "nothing was changed");
        Ok::<_, ChangeError>(())
    })
    .await;
}

#[tokio::test]
async fn names_that_nobody_has_are_not_counted_and_what_could_not_be_written_is_kept() {
    on_each_engine(async |store| {
        let trust = trust(&store, TrustLevel::Full);
        trust.change(&pattern("set.test"), &level(TrustLevel::Full), &author("why"), None).await?;
        trust.note_answered(server_name!("there.test"));
        let act = |server: &str, context| {
            let server = <&ServerName>::try_from(server).expect("it is a name");
            trust.allow(server, Capability::Typing, &context).expect("all is allowed");
        };
        for at in 0..50 {
            act(&format!("x{at}.test"), Context::outbound());
        }
        act("there.test", Context::outbound());
        act("set.test", Context::outbound());
        act("caller.test", Context::inbound());
        let mut write = store::Write::new();
        write.run("ALTER TABLE peer_acts RENAME TO gone", Vec::new());
        store.commit(write).await?;
        assert!(trust.shared.acts.write(&store).await.is_err(), "there is nowhere to write to");
        act("caller.test", Context::inbound());
        let mut write = store::Write::new();
        write.run("ALTER TABLE gone RENAME TO peer_acts", Vec::new());
        store.commit(write).await?;
        trust.shared.acts.write(&store).await?;
        let acts = store.peers().acts_since(None, 0).await?;
        let counted: Vec<_> = acts.iter().map(|(act, count)| (act.server.as_str(), *count)).collect();
        assert_eq!(counted, [("caller.test", 2), ("set.test", 1), ("there.test", 1)]);
        Ok::<_, ChangeError>(())
    })
    .await;
}

#[tokio::test]
async fn in_shadow_mode_what_would_be_refused_is_counted_and_let_pass() {
    on_each_engine(async |store| {
        let config = TrustConfig { default_level: TrustLevel::Blocked, shadow: true, ..TrustConfig::default() };
        let trust = Trust::new(store.clone(), server_name!("a.test").to_owned(), config);
        let b = server_name!("b.test");
        trust.allow(b, Capability::Typing, &Context::inbound()).expect("it is let pass");
        assert!(trust.shows(b, TrustLevel::Full));
        trust.write_acts().await;
        let acts = store.peers().acts_since(Some("b.test"), 0).await?;
        assert!(acts.keys().all(|act| act.rule == "blocked.typing.no"), "{acts:?}");
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    on_each_engine(async |store| {
        let slow = Rate { per_second: 0.01, burst: 2 };
        let config = TrustConfig { default_level: TrustLevel::Restricted, slow, ..TrustConfig::default() };
        let trust = Trust::new(store, server_name!("a.test").to_owned(), config);
        let b = server_name!("b.test");
        trust.pace(b).expect("the first");
        trust.pace(b).expect("the second");
        let refused = trust.pace(b).expect_err("the third is too often");
        assert!(refused.retry_after_ms().is_some_and(|wait| wait > 1_000), "{refused:?}");
        trust.pace(server_name!("c.test")).expect("others are not in its way");
        trust.pace(server_name!("a.test")).expect("we are never");
        Ok::<_, store::Error>(())
    })
    .await;
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_found_out() {
    on_each_engine(async |store| {
        let trust = trust(&store, TrustLevel::Limited);
        for at in 0..3 {
            trust.change(&pattern(&format!("p{at}.test")), &level(TrustLevel::Full), &author("why"), None).await?;
        }
        let mut write = store::Write::new();
        write.run("UPDATE audit_log SET actor = 'nobody' WHERE number = 2", Vec::new());
        store.commit(write).await?;
        assert_eq!(trust.verify_audit().await?, Err(Broken { number: 2 }));
        Ok::<_, ChangeError>(())
    })
    .await;
}
