//! What administrators do, and what is written down of it.

use ruma::user_id;

use super::*;
use crate::{LoginError, TokenError, testing::with_users};

fn root() -> Author {
    Author { actor: "@root:a.test".into(), reason: "it was asked for".into() }
}

#[tokio::test]
async fn a_locked_account_does_nothing_and_goes_on_afterwards() {
    with_users(async |users, _| {
        let opened = users.register_for_tests("alice").await;
        let session = users.authenticate(&opened.access_token).await.expect("the token is good");
        let alice = &*opened.user_id;
        let locked = users.restrict(alice, Restriction::Locked(true), &root()).await.expect("she is there");
        assert_eq!(locked.state(), AccountState::Locked);
        let refused = users.authenticate(&opened.access_token).await.expect_err("it is locked");
        assert!(matches!(refused, TokenError::Locked) && refused.soft_logout());
        assert!(!users.goes_on(&session).await.expect("it is looked up"), "no connection stays open");
        users.authenticate_to_leave(&opened.access_token).await.expect("she may log out");
        let login = users.try_login_for_tests("alice", "a password").await;
        assert!(matches!(login, Err(LoginError::Locked)), "who knows the password learns why");

        users.restrict(alice, Restriction::Locked(false), &root()).await.expect("she is there");
        users.authenticate(&opened.access_token).await.expect("the session has waited");
        assert!(users.goes_on(&session).await.expect("it is looked up"));
        let audit = users.peers.trust().audit(None, None, 10).await.expect("it reads");
        let did: Vec<_> = audit.iter().map(|entry| (entry.action.as_str(), entry.subject.as_str())).collect();
        assert_eq!(did, [("account.unlocked", "@alice:a.test"), ("account.locked", "@alice:a.test")]);
        assert_eq!(audit[1].after.as_ref().expect("it is told")["state"], "locked");
    })
    .await;
}

#[tokio::test]
async fn who_is_suspended_keeps_the_session_and_changes_no_profile() {
    with_users(async |users, _| {
        let opened = users.register_for_tests("alice").await;
        let alice = &*opened.user_id;
        users.restrict(alice, Restriction::Suspended(true), &root()).await.expect("she is there");
        assert!(users.is_suspended(alice));
        users.authenticate(&opened.access_token).await.expect("she may read");
        let refused = users.set_profile_field(alice, alice, "displayname", &"A".into()).await.expect_err("she may not");
        assert_eq!(refused.errcode(), Some("M_USER_SUSPENDED"));
        users.restrict(alice, Restriction::Suspended(false), &root()).await.expect("she is there");
        users.set_profile_field(alice, alice, "displayname", &"A".into()).await.expect("she may again");
    })
    .await;
}

#[tokio::test]
async fn nobody_does_it_to_themselves_or_without_a_reason() {
    with_users(async |users, _| {
        let alice = users.register_for_tests("alice").await.user_id;
        let own = Author { actor: alice.to_string(), reason: "a slip".into() };
        for refused in [
            users.restrict(&alice, Restriction::Locked(true), &own).await.map(drop),
            users.set_role_by(&alice, Role::User, &own).await.map(drop),
            users.deactivate_by(&alice, false, &own).await,
        ] {
            assert!(matches!(refused, Err(CustodyError::Yourself)));
        }
        let silent = Author { reason: " ".into(), ..root() };
        let refused = users.end_sessions_by(&alice, None, &silent).await;
        assert!(matches!(refused, Err(CustodyError::Change(ChangeError::NoReason))));
        let nobody = user_id!("@nobody:a.test");
        assert!(matches!(users.deactivate_by(nobody, false, &root()).await, Err(CustodyError::NotFound)));
        assert!(users.peers.trust().audit(None, None, 10).await.expect("it reads").is_empty());
    })
    .await;
}

#[tokio::test]
async fn sessions_password_role_and_end_of_an_account() {
    with_users(async |users, _| {
        let wish =
            NewAccount { username: "alice".into(), password: Some("a password".into()), ..NewAccount::default() };
        let made = users.create_account_by(wish.clone(), Role::Operator, &root()).await.expect("the name is free");
        assert_eq!((made.role, made.state()), (Role::Operator, AccountState::Active));
        let again = users.create_account_by(wish, Role::User, &root()).await;
        assert!(matches!(again, Err(CustodyError::Register(RegisterError::Taken))));
        let alice = &*made.user_id;
        let opened = users.try_login_for_tests("alice", "a password").await.expect("the password is right");
        let details = users.account_details(alice).await.expect("she is there");
        assert_eq!((details.devices.len(), details.rooms, details.has_second_factor), (1, 0, false));

        let ended = users.end_sessions_by(alice, Some(&opened.device_id), &root()).await.expect("it is hers");
        assert_eq!(ended, 1);
        assert!(users.authenticate(&opened.access_token).await.is_err());
        let gone = users.end_sessions_by(alice, Some(&opened.device_id), &root()).await;
        assert!(matches!(gone, Err(CustodyError::NoDevice)));

        users.set_password_by(alice, "another one", true, &root()).await.expect("it will do");
        assert!(users.try_login_for_tests("alice", "a password").await.is_err());
        let opened = users.try_login_for_tests("alice", "another one").await.expect("it is the new one");
        users.set_role_by(alice, Role::Admin, &root()).await.expect("she is there");
        let session = users.authenticate(&opened.access_token).await.expect("the session goes on");
        assert_eq!(users.role(&session).await.expect("it reads"), Role::Admin);
        users.set_role_by(alice, Role::Auditor, &root()).await.expect("she is there");
        let session = users.authenticate(&opened.access_token).await.expect("the session goes on");
        assert_eq!(users.role(&session).await.expect("it reads"), Role::Auditor);

        users.deactivate_by(alice, true, &root()).await.expect("she is there");
        assert_eq!(users.account_record(alice).await.expect("it is known").state(), AccountState::Deactivated);
        assert!(users.authenticate(&opened.access_token).await.is_err());
        let entries = users.peers.trust().verify_audit().await.expect("it reads");
        assert_eq!(entries, Ok(6));
        let audit = users.peers.trust().audit(None, None, 10).await.expect("it reads");
        assert!(audit.iter().all(|entry| !format!("{entry:?}").contains("another one")));
    })
    .await;
}
