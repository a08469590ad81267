//! What of an event people read, and the same without some words.

use serde_json::{Map, Value};

/// The fields whose texts people read. What else an event says, such as ids and keys, is not looked at.
const READ: [&str; 10] =
    ["body", "formatted_body", "name", "topic", "title", "description", "caption", "filename", "text", "displayname"];

/// What to do about a text.
pub(super) enum Verdict {
    Keep,
    Become(String),
    Refuse,
}

/// Looks at every text that people read. Answers whether something was replaced; an error: something is refused.
pub(super) fn look_through(content: &mut Value, judge: &mut dyn FnMut(&str) -> Verdict) -> Result<bool, ()> {
    match content {
        Value::Object(fields) => look_through_fields(fields, judge),
        Value::Array(items) => {
            items.iter_mut().try_fold(false, |changed, item| Ok(look_through(item, judge)? | changed))
        }
        _ => Ok(false),
    }
}

fn look_through_fields(fields: &mut Map<String, Value>, judge: &mut dyn FnMut(&str) -> Verdict) -> Result<bool, ()> {
    let (mut is_changed, mut is_formatting_stale) = (false, false);
    for (name, value) in fields.iter_mut() {
        let Value::String(text) = value else {
            is_changed |= look_through(value, judge)?;
            continue;
        };
        if !READ.contains(&name.as_str()) {
            continue;
        }
        let is_formatted = name == "formatted_body";
        let verdict = if is_formatted { judge(&without_tags(text)) } else { judge(text) };
        match verdict {
            Verdict::Keep => {}
            Verdict::Refuse => return Err(()),
            Verdict::Become(_) if is_formatted => is_formatting_stale = true,
            Verdict::Become(other) => {
                *text = other;
                is_changed = true;
            }
        }
    }
    if is_formatting_stale || (is_changed && fields.contains_key("formatted_body")) {
        // The plain text is what remains: tags can stand in the middle of a word.
        fields.remove("formatted_body");
        fields.remove("format");
        is_changed = true;
    }
    Ok(is_changed)
}

/// HTML without its tags, roughly: enough to see words that they cut.
fn without_tags(html: &str) -> String {
    let mut is_tag = false;
    let visible = |letter: &char| {
        let was_tag = is_tag;
        is_tag = (is_tag || *letter == '<') && *letter != '>';
        !was_tag && !is_tag
    };
    html.chars().filter(visible).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(text: &str) -> Verdict {
        match text {
            text if text.contains("never") => Verdict::Refuse,
            text if text.contains("bad") => Verdict::Become(text.replace("bad", "***")),
            _ => Verdict::Keep,
        }
    }

    #[test]
    fn what_people_read_is_changed_and_nothing_else_is() {
        let mut content = json!({
            "msgtype": "bad", "body": "a bad word", "format": "org.matrix.custom.html",
            "formatted_body": "a <b>b</b>ad word", "m.new_content": { "body": "so bad" },
            "m.relates_to": { "event_id": "bad" }, "m.text": [{ "body": "bad" }],
        });
        assert_eq!(look_through(&mut content, &mut judge), Ok(true));
        let expected = json!({
            "msgtype": "bad", "body": "a *** word", "m.new_content": { "body": "so ***" },
            "m.relates_to": { "event_id": "bad" }, "m.text": [{ "body": "***" }],
        });
        assert_eq!(content, expected);
    }

    #[test]
    fn a_word_that_tags_cut_is_seen() {
        let mut content = json!({ "body": "fine", "formatted_body": "ne<i>ver</i>" });
        assert_eq!(look_through(&mut content, &mut judge), Err(()));
        let mut content = json!({ "body": "fine", "formatted_body": "<p>fine</p>" });
        assert_eq!(look_through(&mut content, &mut judge), Ok(false));
        assert_eq!(content["formatted_body"], "<p>fine</p>");
    }
}
