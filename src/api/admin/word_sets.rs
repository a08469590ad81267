//! Words that people don't get past with.

use integrations::content_rules::{Tried, WordAction, WordSet};
use model::Millis;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::staff::{Admin, Viewer};
use crate::native::{Answer, Call, Endpoint, Nothing, delete, get, post, put};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        get("/api/v1/admin/word-sets", "The sets of words that people don't get past with, without the words.", all),
        get("/api/v1/admin/word-sets/{name}", "A set of words.", one),
        put("/api/v1/admin/word-sets/{name}", "Makes a set of words, or puts another in its place.", change).explained(
            "Its words are looked for at once, by other nodes within a second: in messages, in what rooms are called and in other texts that \
             people of this server send. Letters count in either case and in full width; a word of Latin letters is found \
             where it stands alone. Rooms that are encrypted are not looked into: nobody can.",
        ),
        delete("/api/v1/admin/word-sets/{name}", "Takes a set of words away.", remove),
        post("/api/v1/admin/word-sets/try", "What would become of a text.", attempt),
    ]
}

/// A set of words.
#[derive(Serialize, ToSchema)]
#[schema(as = WordSet)]
struct ShownSet {
    /// What admins call it.
    name: String,
    /// What is done about its words: `reject`, `replace`, `hold` (a moderator lets it through first) or `tag` (it is reported).
    #[schema(value_type = String)]
    action: WordAction,
    /// What stands in the place of a word; null: an asterisk for each of its letters.
    replacement: Option<String>,
    /// How often it was changed.
    version: i64,
    /// Who changed it last.
    changed_by: String,
    /// When, milliseconds since 1970.
    changed_at: Millis,
    /// The words, where one set was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    words: Vec<String>,
}

impl From<WordSet> for ShownSet {
    fn from(set: WordSet) -> Self {
        let WordSet { name, action, replacement, version, changed_by, changed_at, words } = set;
        Self { name, action, replacement, version, changed_by, changed_at, words }
    }
}

/// All of them.
#[derive(Serialize, ToSchema)]
struct WordSets {
    /// By name.
    word_sets: Vec<ShownSet>,
}

/// What a set is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewWordSet {
    /// What is done about its words: `reject`, `replace`, `hold` (a moderator lets it through first) or `tag` (it is reported).
    #[schema(value_type = String)]
    action: WordAction,
    /// What stands in the place of a word; left out: an asterisk for each of its letters.
    replacement: Option<String>,
    /// 1 to 20,000 words of 1 to 100 letters.
    words: Vec<String>,
}

/// A text.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TriedText {
    /// The text.
    text: String,
}

/// What would become of it.
#[derive(Serialize, ToSchema)]
struct JudgedText {
    /// What would be sent; null: nothing.
    text: Option<String>,
    /// The sets for which it would wait until a moderator lets it through.
    held_by: Vec<String>,
    /// The sets for which it would be reported.
    tagged_by: Vec<String>,
}

async fn all(call: Call<Viewer>) -> Answer<WordSets> {
    let sets = call.services.content_rules.all().await?;
    Ok(WordSets { word_sets: sets.into_iter().map(Into::into).collect() })
}

async fn one(call: Call<Viewer>) -> Answer<ShownSet> {
    let name: String = call.argument("name")?;
    Ok(call.services.content_rules.get(&name).await?.into())
}

async fn change(call: Call<Admin, Nothing, NewWordSet>) -> Answer<ShownSet> {
    let name: String = call.argument("name")?;
    let (author, NewWordSet { action, replacement, words }) = (&call.caller.session.user_id, call.body);
    let rules = &call.services.content_rules;
    Ok(rules.put(author.as_str(), &name, action, replacement, words).await?.into())
}

async fn remove(call: Call<Admin>) -> Answer<Nothing> {
    let name: String = call.argument("name")?;
    call.services.content_rules.remove(call.caller.session.user_id.as_str(), &name).await?;
    Ok(Nothing)
}

async fn attempt(call: Call<Viewer, Nothing, TriedText>) -> Answer<JudgedText> {
    let Tried { text, held_by, tagged_by } = call.services.content_rules.try_text(&call.body.text);
    Ok(JudgedText { text, held_by, tagged_by })
}
