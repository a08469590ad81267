//! A syncing reader that never forgets what it was shown, and shouts when it is shown something twice.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use serde_json::Value;

use crate::Client;

/// Follows all rooms of a user as a careful client does: from one `since` to the next, filling a limited timeline from
/// `/messages` between its `prev_batch` and the previous `since`.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    query: String,
    since: String,
    seen: HashSet<String>,
    rooms: BTreeMap<String, Vec<String>>,
    /// How many timelines were limited and had to be filled.
    pub gaps: usize,
}

impl Reader {
    /// Begins to read now: what is there already counts as known.
    pub async fn start(client: Client) -> Self {
        Self::start_with(client, "").await
    }

    /// The same with more in the query of each `/sync`, beginning with `&`.
    pub async fn start_with(client: Client, query: &str) -> Self {
        let since = client.now().await;
        Self { client, query: query.to_owned(), since, seen: HashSet::new(), rooms: BTreeMap::new(), gaps: 0 }
    }

    /// Reads once, waiting up to `timeout` for news. Answers how many events were new; an error means that the server
    /// couldn't be reached, and changed nothing.
    pub async fn step(&mut self, timeout: Duration) -> Result<usize, String> {
        let path = format!("sync?timeout={}&since={}{}", timeout.as_millis(), crate::enc(&self.since), self.query);
        let answer = self.client.try_get(&path).await.map_err(|error| error.to_string())?;
        if answer.status >= 500 {
            return Err(answer.text);
        }
        let answer = answer.ok();
        let mut news = Vec::new();
        for section in ["join", "leave"] {
            let Some(rooms) = answer["rooms"][section].as_object() else { continue };
            for (room, update) in rooms {
                news.push((room.clone(), self.timeline(room, update).await?));
            }
        }
        let before = self.seen.len();
        for (room, events) in news {
            for event in events {
                let id = event["event_id"].as_str().unwrap_or_else(|| panic!("no event_id in {event}")).to_owned();
                assert!(
                    self.seen.insert(id.clone()),
                    "{} was shown {id} twice, the second time after {}: {event}",
                    self.client.user_id,
                    self.since,
                );
                self.rooms.entry(room.clone()).or_default().push(id);
            }
        }
        answer["next_batch"].as_str().expect("next_batch is a string").clone_into(&mut self.since);
        Ok(self.seen.len() - before)
    }

    async fn timeline(&mut self, room: &str, update: &Value) -> Result<Vec<Value>, String> {
        let timeline = &update["timeline"];
        let shown = timeline["events"].as_array().cloned().unwrap_or_default();
        if timeline["limited"] != true {
            return Ok(shown);
        }
        self.gaps += 1;
        let mut filled = Vec::new();
        let mut from = timeline["prev_batch"].as_str().expect("a limited timeline has a prev_batch").to_owned();
        loop {
            let path = format!(
                "rooms/{room}/messages?dir=b&limit=100&from={}&to={}",
                crate::enc(&from),
                crate::enc(&self.since)
            );
            let page = self.client.try_get(&path).await.map_err(|error| error.to_string())?;
            if page.status >= 500 {
                return Err(page.text);
            }
            let page = page.ok();
            filled.extend(page["chunk"].as_array().cloned().unwrap_or_default());
            let Some(end) = page["end"].as_str() else { break };
            end.clone_into(&mut from);
        }
        filled.reverse();
        filled.extend(shown);
        Ok(filled)
    }

    /// What it was shown in `room`, in the order in which it was shown.
    pub fn room(&self, room: &str) -> &[String] {
        self.rooms.get(room).map_or(&[], Vec::as_slice)
    }

    /// Whether it was shown `event_id`.
    pub fn has_seen(&self, event_id: &str) -> bool {
        self.seen.contains(event_id)
    }

    /// The token it will read on from.
    pub fn since(&self) -> &str {
        &self.since
    }

    /// Its user.
    pub fn client(&self) -> &Client {
        &self.client
    }
}
