//! Events as messages, and messages as events.

use ruma::{room_id, server_name};

use super::*;

fn said(kind: &str, content: Value) -> Value {
    json!({
        "type": kind, "event_id": "$one", "sender": "@bob:b.test", "origin_server_ts": 5, "content": content,
        "unsigned": { "age": 1 },
    })
}

fn message(event: &Value) -> Message {
    Message::of(event, room_id!("!r:a.test"), Some(7), server_name!("a.test")).expect("it is an event")
}

fn composed(said: Value) -> Result<(&'static str, Value), String> {
    let said: Said = serde_json::from_value(said).map_err(|error| error.to_string())?;
    said.event().map_err(|problem| problem.detail().to_owned())
}

#[test]
fn what_is_sent_is_what_is_read() {
    let url = "mxc://a.test/one";
    for (kind, content) in [
        ("text", json!({ "text": "hello" })),
        ("markdown", json!({ "text": "*hello*", "html": "<p><em>hello</em></p>" })),
        (
            "image",
            json!({ "url": url, "name": "cat.png", "size": 5, "mimetype": "image/png", "width": 2, "height": 3 }),
        ),
        ("file", json!({ "url": url, "name": "list.txt", "text": "read this" })),
        ("voice", json!({ "url": url, "name": "a.ogg", "duration_ms": 1200 })),
        ("video", json!({ "url": url, "name": "a.mp4", "thumbnail_url": "mxc://a.test/two" })),
        (
            "location",
            json!({ "geo_uri": "geo:48.5,2.25", "description": "there", "latitude": 48.5, "longitude": 2.25 }),
        ),
        ("card", json!({ "text": "a card", "card": { "title": "Order 5" } })),
        ("custom", json!({ "text": "[data]", "data": [1, 2] })),
        ("encrypted", json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "xyz" })),
    ] {
        let (event_type, sent) = composed(json!({ "type": kind, "content": content })).expect(kind);
        let read = message(&said(event_type, sent));
        assert_eq!(json!(read.kind), kind);
        assert_eq!(read.content, content, "{kind}");
    }
}

#[test]
fn a_message_says_whom_it_answers_and_mentions_and_that_it_is_from_elsewhere() {
    let mentions = json!({ "users": ["alice@a.test", "@carol:c.test"], "all": true });
    let wish = json!({ "content": "hi", "reply_to": "$zero", "mentions": mentions });
    let (kind, content) = composed(wish).expect("it can be said");
    assert_eq!(content["m.mentions"], json!({ "user_ids": ["@alice:a.test", "@carol:c.test"], "room": true }));
    let mut event = said(kind, content);
    event["unsigned"]["transaction_id"] = "m1".into();
    assert_eq!(
        json!(message(&event)),
        json!({
            "id": "$one", "conversation_id": "!r:a.test", "seq": 7, "msg_id": "m1", "priority": "normal",
            "sender": { "user_id": "@bob:b.test", "address": "bob@b.test" }, "sent_at": 5, "type": "text",
            "content": { "text": "hi" }, "reply_to": "$zero", "is_federated": true,
            "mentions": { "all": true, "users": [
                { "user_id": "@alice:a.test", "address": "alice@a.test" },
                { "user_id": "@carol:c.test", "address": "carol@c.test" },
            ]},
        })
    );
}

#[test]
fn an_edit_shows_in_what_it_edits_and_is_an_item_of_its_own() {
    let wish: Said = serde_json::from_value(json!({ "content": "new words" })).expect("it can be said");
    let (kind, edit) = wish.edit_of("$one").expect("it can be said");
    let mut event = said("m.room.message", json!({ "msgtype": "m.text", "body": "old words" }));
    let edit =
        json!({ "type": kind, "event_id": "$two", "sender": "@bob:b.test", "origin_server_ts": 9, "content": edit });
    event["unsigned"]["m.relations"] = json!({ "m.replace": edit });
    let edited = message(&event);
    assert_eq!((edited.content, edited.edited_at), (json!({ "text": "new words" }), Some(9)));
    let change = json!({
        "kind": "edited", "message_id": "$one", "type": "text", "content": { "text": "new words" },
    });
    assert_eq!((message(&edit).kind, message(&edit).content), (MessageType::Notice, change));
}

#[test]
fn what_was_redacted_is_recalled_and_says_nothing() {
    let mut event = said("m.room.message", json!({}));
    assert_eq!(message(&event).kind, MessageType::Recalled);
    event["unsigned"]["redacted_because"] = json!({ "sender": "@mod:a.test", "origin_server_ts": 8 });
    let recalled = message(&event);
    assert_eq!((recalled.kind, recalled.content, recalled.recalled_at), (MessageType::Recalled, json!({}), Some(8)));
    assert_eq!(recalled.recalled_by.map(|person| person.address.to_string()).as_deref(), Some("mod@a.test"));

    // Nothing was recalled where a reaction was taken back.
    let mut reaction = said("m.reaction", json!({}));
    reaction["unsigned"]["redacted_because"] = json!({ "sender": "@alice:a.test", "origin_server_ts": 8 });
    let withdrawn = message(&reaction);
    assert!(withdrawn.is_notice());
    assert_eq!(withdrawn.content, json!({ "kind": "withdrawn", "what": "reaction" }));

    // Before room version 11 the event itself names what it redacts, since then its content.
    for (outer, inner) in [(json!("$one"), Value::Null), (Value::Null, json!("$one"))] {
        let mut redaction = said("m.room.redaction", json!({ "redacts": inner }));
        redaction["redacts"] = outer;
        assert_eq!(message(&redaction).content["message_id"], "$one");
    }
}

#[test]
fn what_happens_is_a_notice_that_says_what() {
    let member = |then: &str, now: &str, sender: &str| {
        let mut event = said("m.room.member", json!({ "membership": now, "displayname": "Bob" }));
        event["state_key"] = "@bob:b.test".into();
        event["sender"] = sender.into();
        event["unsigned"]["prev_content"] = json!({ "membership": then });
        let told = message(&event);
        assert!(told.is_notice());
        assert_eq!(told.content["user"]["address"], "bob@b.test");
        told.content["change"].as_str().expect("it is told").to_owned()
    };
    let (bob, alice) = ("@bob:b.test", "@alice:a.test");
    assert_eq!(member("leave", "join", bob), "joined");
    assert_eq!(member("join", "join", bob), "profile_changed");
    assert_eq!(member("join", "leave", bob), "left");
    assert_eq!(member("join", "leave", alice), "removed");
    assert_eq!(member("invite", "leave", bob), "declined");
    assert_eq!(member("ban", "leave", alice), "unbanned");

    let mut name = said("m.room.name", json!({ "name": "Tea" }));
    name["state_key"] = "".into();
    assert_eq!(message(&name).content, json!({ "kind": "name", "name": "Tea" }));
    let relates_to = json!({ "rel_type": "m.annotation", "event_id": "$zero", "key": "👍" });
    let reaction = message(&said("m.reaction", json!({ "m.relates_to": relates_to })));
    assert_eq!(reaction.content, json!({ "kind": "reaction", "message_id": "$zero", "key": "👍" }));
    let poll = message(&said("org.example.poll", json!({ "question": "?" })));
    assert_eq!((poll.kind, &poll.content["event_type"]), (MessageType::Custom, &json!("org.example.poll")));
}

#[test]
fn html_in_markdown_is_text() {
    let (_, content) = composed(json!({ "type": "markdown", "content": "<b>no</b> **yes**" })).expect("it can be said");
    assert_eq!(content["formatted_body"], "<p>&lt;b&gt;no&lt;/b&gt; <strong>yes</strong></p>");
}

#[test]
fn what_cannot_be_said_is_refused_with_its_reason() {
    let refused = |wish: Value| composed(wish).expect_err("it can't be said");
    assert!(refused(json!({ "type": "notice", "content": {} })).contains("type"));
    assert!(refused(json!({ "content": { "text": 5 } })).contains("content.text"));
    assert!(refused(json!({ "content": "" })).contains("empty"));
    assert!(refused(json!({ "type": "image", "content": { "url": "https://x.test/cat.png" } })).contains("mxc"));
    assert!(
        refused(json!({ "type": "location", "content": { "latitude": 95.0, "longitude": 1.0 } })).contains("geo_uri")
    );
    assert!(refused(json!({ "content": "hi", "colour": "red" })).contains("colour"));
}
