//! Applications, with a clock that stands still.

use std::{net::IpAddr, sync::Arc, time::Duration};

use model::Millis;
use peers::trust::Author;
use proptest::prelude::*;
use ruma::user_id;

use super::*;
use crate::{
    TokenStyle, Users,
    testing::{HOME, TestClock, with_users},
};

const SECRET: &str = "pJ4hXw1sE7uQm2Zk9RtYc6VbN3aLf8GdK0oTiUyS5xM";
const NOW: Millis = 1_700_000_000_000;

fn author() -> Author {
    Author { actor: "@root:a.test".into(), reason: "they asked".into() }
}

/// As [`SignedRequest`], with texts of its own.
#[derive(Clone, Debug, PartialEq)]
struct Draft {
    method: String,
    path: String,
    query: String,
    app_key: String,
    timestamp: String,
    nonce: String,
    user: String,
    body: Vec<u8>,
}

impl Draft {
    fn of(app_key: &str, at: Millis, nonce: &str) -> Self {
        Self {
            method: "POST".into(),
            path: "/api/v1/messages".into(),
            query: String::new(),
            app_key: app_key.into(),
            timestamp: at.to_string(),
            nonce: nonce.into(),
            user: "alice@a.test".into(),
            body: b"{}".to_vec(),
        }
    }

    fn request<'a>(&'a self, signature: &'a str) -> SignedRequest<'a> {
        let Self { method, path, query, app_key, timestamp, nonce, user, .. } = self;
        SignedRequest { method, path, query, app_key, timestamp, nonce, user, signature }
    }

    fn sign(&self, secret: &str) -> String {
        self.request("").signature_by(secret, &self.body)
    }

    fn is_signed_by(&self, signature: &str) -> bool {
        self.request(signature).is_signed_with(&self.body, std::iter::once(SECRET))
    }

    /// What the server says of it, as its code.
    async fn sent(&self, users: &Users, secret: &str) -> Result<Application, &'static str> {
        self.sent_from(users, secret, HOME).await
    }

    async fn sent_from(&self, users: &Users, secret: &str, from: IpAddr) -> Result<Application, &'static str> {
        let signature = self.sign(secret);
        let request = self.request(&signature);
        let code = |error: SignatureError| error.code().unwrap_or("other");
        let claimed = users.claimed(&request, from).await.map_err(code)?;
        users.admit(claimed, &request, &self.body, from).await.map_err(code)
    }
}

#[test]
fn the_example_of_the_documentation_is_signed_so() {
    let document = include_str!("../../../docs/applications.md");
    let draft = Draft {
        path: "/api/v1/applications/tokens".into(),
        user: String::new(),
        body: br#"{"user":"alice@a.example","device_name":"CRM"}"#.to_vec(),
        ..Draft::of("app_T8mYc0xQe2Lw7RkB5nVd1sZa", 1_795_301_000_000, "6f1c2a90b7d34e58")
    };
    let text = draft.request("").text(&draft.body);
    // printf '%s' "$TEXT" | openssl dgst -sha256 -hmac "$SECRET"
    let signature = "fcd87ca1be82f8f4296adc340618fac0f07bab7f62da573064e7d10e3e0fd9c2";
    assert_eq!(draft.sign(SECRET), signature);
    assert!(draft.is_signed_by(signature) && draft.is_signed_by(&signature.to_uppercase()));
    for part in [&text, SECRET, signature, std::str::from_utf8(&draft.body).expect("it is a text")] {
        assert!(document.contains(part), "docs/applications.md doesn't have {part}");
    }
    for scope in AppScope::ALL {
        assert!(document.contains(&format!("`{scope}`")), "docs/applications.md doesn't have {scope}");
    }
}

#[test]
fn the_order_of_a_query_is_no_part_of_the_signature_and_all_else_is() {
    let with = |query: &str| Draft { query: query.into(), ..Draft::of("app", NOW, "a nonce!") };
    let signature = with("b=2&a=1&a=0").sign(SECRET);
    assert!(with("a=0&a=1&b=2").is_signed_by(&signature));
    for other in ["a=1&b=2", "a=0&a=1&b=2&", "a=0&a=1&b=%32", "", "a=0&a=1b=2"] {
        assert!(!with(other).is_signed_by(&signature), "{other}");
    }
    for broken in ["", "zz", &signature[1..], &signature.replace(char::is_numeric, "+")] {
        assert!(!with("b=2&a=1&a=0").is_signed_by(broken), "{broken}");
    }
    assert!(!with("a=1").request(&with("a=1").sign("another")).is_signed_with(b"{}", [SECRET].into_iter()));
}

fn drafts() -> impl Strategy<Value = Draft> {
    let text = "[ -~]{0,12}";
    (text, text, text, text, "[0-9]{1,13}", text, text, prop::collection::vec(any::<u8>(), 0..20)).prop_map(
        |(method, path, query, app_key, timestamp, nonce, user, body)| Draft {
            method,
            path,
            query,
            app_key,
            timestamp,
            nonce,
            user,
            body,
        },
    )
}

proptest! {
    #[test]
    fn a_change_of_anything_breaks_the_signature(one in drafts(), other in drafts(), which in 0_usize..8) {
        let signature = one.sign(SECRET);
        prop_assert!(one.is_signed_by(&signature));
        let mut changed = one.clone();
        match which {
            0 => changed.method = other.method,
            1 => changed.path = other.path,
            2 => changed.query = other.query,
            3 => changed.app_key = other.app_key,
            4 => changed.timestamp = other.timestamp,
            5 => changed.nonce = other.nonce,
            6 => changed.user = other.user,
            _ => changed.body = other.body,
        }
        let sorted = |draft: &Draft| {
            let mut parts: Vec<String> = draft.query.split('&').map(str::to_owned).collect();
            parts.sort();
            Draft { query: parts.join("&"), ..draft.clone() }
        };
        prop_assert_eq!(changed.is_signed_by(&signature), sorted(&changed) == sorted(&one));
        // What moves from one part into its neighbour is a change as well.
        let mut moved = one.clone();
        if let Some(last) = moved.path.pop() {
            moved.query.insert(0, last);
            prop_assert!(!moved.is_signed_by(&signature));
        }
    }
}

async fn made(users: &Users, wish: NewApplication) -> MadeApplication {
    users.create_application(wish, &author()).await.expect("it can be made")
}

fn crm() -> NewApplication {
    NewApplication { name: "CRM".into(), scopes: vec![AppScope::TokensMint], ..NewApplication::default() }
}

async fn in_story(story: impl AsyncFn(Arc<Users>, TestClock, Application, String)) {
    with_users(async |users, clock| {
        let MadeApplication { application, secret } = made(&users, crm()).await;
        story(users, clock, application, secret.to_string()).await;
    })
    .await;
}

#[tokio::test]
async fn a_request_is_good_once_and_soon() {
    in_story(async |users, clock, application, secret| {
        let key = application.app_key.as_str();
        let now = || users.now();
        let draft = Draft::of(key, now(), "nonce-01");
        assert_eq!(draft.sent(&users, &secret).await.expect("it is new").name, "CRM");
        assert_eq!(draft.sent(&users, &secret).await, Err("nonce_used"));
        // The same nonce is no other one for being signed later.
        clock.advance(1);
        assert_eq!(Draft::of(key, now(), "nonce-01").sent(&users, &secret).await, Err("nonce_used"));

        let window = 300_000;
        for (skew, nonce, said) in [
            (-window, "nonce-02", None),
            (window, "nonce-03", None),
            (-window - 1, "nonce-04", Some("signature_stale")),
            (window + 1, "nonce-05", Some("signature_stale")),
        ] {
            assert_eq!(Draft::of(key, now() + skew, nonce).sent(&users, &secret).await.err(), said, "{skew}");
        }
        let late = Draft::of(key, now(), "nonce-06");
        late.sent(&users, &secret).await.expect("it is new");
        for _ in 0..3 {
            clock.advance(window / 2);
            users.forget_what_is_over().await.expect("it forgets");
            assert!(late.sent(&users, &secret).await.is_err());
        }
        clock.advance(3 * window);
        users.forget_what_is_over().await.expect("it forgets");
        Draft::of(key, now(), "nonce-06").sent(&users, &secret).await.expect("that was long ago");

        for (timestamp, nonce) in
            [("", "nonce-07"), ("+1", "nonce-07"), ("1e3", "nonce-07"), ("99999999999999999999", "nonce-07")]
        {
            let odd = Draft { timestamp: timestamp.into(), ..Draft::of(key, now(), nonce) };
            assert_eq!(odd.sent(&users, &secret).await, Err("signature_malformed"), "{timestamp}");
        }
        for nonce in ["short", "with a space", &"x".repeat(65)] {
            assert_eq!(Draft::of(key, now(), nonce).sent(&users, &secret).await, Err("signature_malformed"), "{nonce}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_not_there_and_a_wrong_signature_are_one_refusal() {
    in_story(async |users, clock, application, secret| {
        let key = application.app_key.as_str();
        for (key, secret) in [("app_nobody", secret.as_str()), (key, "another"), (key, ""), (&"x".repeat(500), "x")] {
            assert_eq!(Draft::of(key, users.now(), "nonce-01").sent(&users, secret).await, Err("signature_wrong"));
        }
        // Who has the secret is told more.
        let off = ApplicationChange { disabled: Some(true), ..ApplicationChange::default() };
        users.change_application(key, &off, &author(), None).await.expect("it can be");
        assert_eq!(Draft::of(key, users.now(), "nonce-02").sent(&users, "x").await, Err("signature_wrong"));
        assert_eq!(Draft::of(key, users.now(), "nonce-02").sent(&users, &secret).await, Err("application_disabled"));
        let on = ApplicationChange {
            disabled: Some(false),
            expires_at: Some(Some(users.now() + 10)),
            addresses: Some(vec!["10.0.0.0/8".into(), "2001:db8::1".into()]),
            ..ApplicationChange::default()
        };
        users.change_application(key, &on, &author(), None).await.expect("it can be");
        let draft = Draft::of(key, users.now(), "nonce-03");
        let from = |text: &str| text.parse::<IpAddr>().expect("it is an address");
        assert_eq!(draft.sent(&users, &secret).await, Err("address_not_allowed"));
        draft.sent_from(&users, &secret, from("::ffff:10.1.2.3")).await.expect("it is one of them");
        let draft = Draft::of(key, users.now(), "nonce-04");
        draft.sent_from(&users, &secret, from("2001:db8::1")).await.expect("it is the other");
        clock.advance(10);
        let draft = Draft::of(key, users.now(), "nonce-05");
        assert_eq!(draft.sent_from(&users, &secret, from("10.0.0.1")).await, Err("application_expired"));
    })
    .await;
}

#[tokio::test]
async fn who_sends_too_often_waits_and_who_guesses_too() {
    with_users(async |users, _| {
        let wish = NewApplication { per_second: Some(1), burst: Some(3), ..crm() };
        let MadeApplication { application, secret } = made(&users, wish).await;
        let key = application.app_key.as_str();
        for number in 0..3 {
            let draft = Draft::of(key, users.now(), &format!("nonce-{number}x"));
            draft.sent(&users, &secret).await.expect("it may");
            // What comes again is not counted.
            assert_eq!(draft.sent(&users, &secret).await, Err("nonce_used"));
        }
        let draft = Draft::of(key, users.now(), "nonce-9x");
        let signature = draft.sign(&secret);
        let request = draft.request(&signature);
        let Ok(claimed) = users.claimed(&request, HOME).await else { panic!("it is known") };
        let limited = users.admit(claimed, &request, &draft.body, HOME).await.expect_err("that is too often");
        assert!(limited.retry_after_ms().is_some_and(|wait| (1..=1_000).contains(&wait)), "{limited}");

        let elsewhere: IpAddr = "192.0.2.1".parse().expect("it is an address");
        for _ in 0..11 {
            let _ = draft.sent_from(&users, "a guess", elsewhere).await;
        }
        let refused = users.claimed(&request, elsewhere).await.err().expect("one has to wait");
        assert!(matches!(refused, SignatureError::Limited(_)), "{refused}");
        assert!(users.claimed(&request, HOME).await.is_ok(), "nobody else has to");
    })
    .await;
}

#[tokio::test]
async fn an_old_secret_is_good_until_its_time_is_over() {
    in_story(async |users, clock, application, first| {
        let key = application.app_key.as_str();
        let rotate = async |overlap| users.rotate_application(key, overlap, &author()).await;
        let second = rotate(1_000).await.expect("it can be").secret.to_string();
        let tried = async |secret: &str, nonce: &str| Draft::of(key, users.now(), nonce).sent(&users, secret).await;
        tried(&first, "nonce-01").await.expect("it is still good");
        tried(&second, "nonce-02").await.expect("it is good");
        let known = users.application_secrets(key).await.expect("they list");
        assert_eq!((known.len(), known[0].expires_at, known[1].expires_at), (2, None, Some(NOW + 1_000)));
        clock.advance(1_000);
        assert_eq!(tried(&first, "nonce-03").await, Err("signature_wrong"));
        tried(&second, "nonce-04").await.expect("it is good");
        let third = rotate(0).await.expect("it can be").secret.to_string();
        assert_eq!(tried(&second, "nonce-05").await, Err("signature_wrong"));
        tried(&third, "nonce-06").await.expect("it is good");
        for _ in 0..4 {
            rotate(1_000).await.expect("there is room");
        }
        assert!(matches!(rotate(1_000).await, Err(ApplicationError::TooManySecrets(5))));
        assert!(matches!(rotate(-1).await, Err(ApplicationError::Field { field: "overlap_ms", .. })));
        let rows = users.store.applications().secrets(key, users.now()).await.expect("they read");
        assert!(rows.iter().all(|row| !row.secret.contains(&third)), "they are sealed");
        let audit = users.peers.trust().audit(None, None, 20).await.expect("it reads");
        let acts: Vec<_> = audit.iter().map(|entry| entry.action.as_str()).collect();
        assert_eq!((acts.last(), acts.first()), (Some(&"application.created"), Some(&"application.secret_rotated")));
        assert!(!format!("{audit:?}").contains(&third));
    })
    .await;
}

#[tokio::test]
async fn a_session_of_an_application_ends_in_time_and_with_it() {
    in_story(async |users, clock, application, _| {
        users.register_for_tests("alice").await;
        let alice = user_id!("@alice:a.test");
        let wish = |lifetime| MintWish {
            user_id: alice,
            device_id: None,
            device_name: None,
            lifetime: Some(Duration::from_secs(lifetime)),
        };
        let short = users.mint(&application, wish(1_000)).await.expect("it opens");
        assert_eq!(short.session.expires_in, Some(Duration::from_secs(900)));
        let session = users.authenticate(&short.session.access_token).await.expect("it is good");
        assert_eq!(session.app_key.as_deref(), Some(application.app_key.as_str()));
        clock.advance(950_000);
        let refresh_token = short.session.refresh_token.expect("there is one");
        let again = users.refresh(&refresh_token, TokenStyle::Signed).await.expect("it goes on");
        assert_eq!(again.expires_in, Some(Duration::from_secs(50)), "and no longer than it may");
        let again_token = again.refresh_token.expect("there is one");
        clock.advance(50_000);
        assert!(users.refresh(&again_token, TokenStyle::Signed).await.is_err());
        assert!(users.authenticate(&again.access_token).await.is_err());
        users.forget_what_is_over().await.expect("it forgets");
        assert!(users.sessions_of(&application.app_key, None, ("", ""), 9).await.expect("they list").is_empty());

        for lifetime in [0, 59, 31 * 24 * 3_600] {
            assert!(matches!(users.mint(&application, wish(lifetime)).await, Err(ActingError::Lifetime(_))));
        }
        // A crash may come between switching off and ending, so it is looked again.
        let open = users.mint(&application, wish(1_000)).await.expect("it opens");
        let mut row = application.row();
        row.disabled_at = Some(users.now());
        let mut write = store::Write::new();
        store::applications::put(&mut write, &row);
        users.store.commit(write).await.expect("it is written");
        users.forget_what_is_over().await.expect("it ends them");
        assert!(users.authenticate(&open.session.access_token).await.is_err());
        assert!(matches!(users.mint(&application, wish(1_000)).await, Err(ActingError::Disabled)));
        assert!(users.sessions_of(&application.app_key, None, ("", ""), 9).await.expect("they list").is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_application_takes_nobodys_device_and_does_nothing_for_staff() {
    in_story(async |users, clock, application, _| {
        let own = users.register_for_tests("alice").await;
        let wish = |user_id, device_id| MintWish { user_id, device_id, device_name: Some("CRM"), lifetime: None };
        let taken = users.mint(&application, wish(&own.user_id, Some(&own.device_id))).await;
        assert!(matches!(taken, Err(ActingError::DeviceTaken)));
        users.authenticate(&own.access_token).await.expect("it goes on");
        for (stranger, _) in [(user_id!("@bob:a.test"), 0), (user_id!("@bob:b.test"), 0)] {
            assert!(matches!(users.mint(&application, wish(stranger, None)).await, Err(ActingError::UnknownUser)));
        }
        let minted = users.mint(&application, wish(&own.user_id, None)).await.expect("it opens");
        users.set_role(&own.user_id, crate::Role::Admin).await.expect("she is there");
        assert!(matches!(users.mint(&application, wish(&own.user_id, None)).await, Err(ActingError::Staff)));
        assert!(matches!(users.act_as(&application, &own.user_id).await, Err(ActingError::Staff)));
        users.forget_sessions(None);
        let session = users.authenticate(&minted.session.access_token).await.expect("it goes on");
        assert!(!session.is_admin);
        assert_eq!(users.role(&session).await.expect("it is known"), crate::Role::User);

        users.set_role(&own.user_id, crate::Role::User).await.expect("she is there");
        for number in 0..20 {
            clock.advance(1);
            users
                .mint(&application, wish(&own.user_id, None))
                .await
                .unwrap_or_else(|error| panic!("{number}: {error}"));
        }
        let open = users.sessions_of(&application.app_key, None, ("", ""), 99).await.expect("they list");
        assert_eq!(open.len(), 20);
        assert!(users.authenticate(&minted.session.access_token).await.is_err(), "the first one has made room");
        assert_eq!(users.end_sessions_of(&application.app_key, None).await.expect("they end"), 20);
        users.authenticate(&own.access_token).await.expect("hers goes on");
    })
    .await;
}
