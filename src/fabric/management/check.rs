//! Whether a broker can do what the links with peers need, in words for its operator.

use std::time::Duration;

use futures_util::future;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;

use super::{LinkWay, Management, ManagementError};

/// How long a node may take to say what runs on it.
const SAID_WITHIN: Duration = Duration::from_secs(6);

/// The plugins of RabbitMQ that a kind of link needs.
pub fn plugins_of(way: LinkWay) -> [&'static str; 2] {
    match way {
        LinkWay::Upstream => ["rabbitmq_federation", "rabbitmq_federation_management"],
        LinkWay::Shovel => ["rabbitmq_shovel", "rabbitmq_shovel_management"],
    }
}

#[derive(Deserialize)]
struct WhoAmI {
    #[serde(default)]
    tags: Value,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    #[serde(default)]
    enabled_plugins: Vec<String>,
    #[serde(default)]
    running: bool,
}

impl Management {
    /// What keeps the broker from having links of this kind, each in a sentence that says what to do; none: nothing.
    pub async fn findings(&self, way: LinkWay) -> Vec<String> {
        let (who, nodes) = future::join(self.get::<WhoAmI>("/whoami"), self.get::<Vec<Node>>("/nodes")).await;
        let (place, user) = (self.place(), self.user());
        match who {
            Err(ManagementError::Forbidden { .. }) => {
                return vec![format!("the broker's management at {place} does not let the user `{user}` in")];
            }
            Err(error) => return vec![error.to_string()],
            Ok(who) if !is_administrator(&who.tags) => {
                return vec![format!(
                    "the user `{user}` may not administrate the broker at {place}: `rabbitmqctl set_user_tags {user} administrator`"
                )];
            }
            Ok(_) => {}
        }
        let found = match nodes {
            Ok(nodes) => missing(&nodes, way, place),
            Err(error) => return vec![error.to_string()],
        };
        if found.is_empty() {
            return found;
        }
        // A node says every few seconds what runs on it: one that has just started may not have said it of all.
        sleep(SAID_WITHIN).await;
        match self.get::<Vec<Node>>("/nodes").await {
            Ok(nodes) => missing(&nodes, way, place),
            Err(error) => vec![error.to_string()],
        }
    }
}

fn missing(nodes: &[Node], way: LinkWay, place: &str) -> Vec<String> {
    let [plugin, its_management] = plugins_of(way);
    let without =
        |node: &&Node, plugin: &str| node.running && !node.enabled_plugins.iter().any(|known| known == plugin);
    let of = |plugin: &str| {
        let lacking: Vec<_> =
            nodes.iter().filter(|node| without(node, plugin)).map(|node| node.name.as_str()).collect();
        let them = lacking.join(", ");
        (!lacking.is_empty()).then(|| {
            format!(
                "the plugin {plugin} is not enabled at the broker {them} ({place}): `rabbitmq-plugins enable {plugin} {its_management}`"
            )
        })
    };
    // The second needs the first, and one sentence says it.
    of(plugin).or_else(|| of(its_management)).into_iter().collect()
}

/// A list of words, or, before 3.9, words with commas between.
fn is_administrator(tags: &Value) -> bool {
    match tags {
        Value::Array(tags) => tags.iter().any(|tag| tag == "administrator"),
        Value::String(tags) => tags.split(',').any(|tag| tag.trim() == "administrator"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_missing_plugin_is_named_with_the_command_that_enables_it() {
        let node = |plugins: &[&str]| Node {
            name: "rabbit@a".to_owned(),
            enabled_plugins: plugins.iter().map(|plugin| (*plugin).to_owned()).collect(),
            running: true,
        };
        let all = node(&["rabbitmq_federation", "rabbitmq_federation_management"]);
        assert!(missing(&[all], LinkWay::Upstream, "http://mq").is_empty());
        let found = missing(&[node(&["rabbitmq_management"])], LinkWay::Shovel, "http://mq");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("rabbit@a") && found[0].contains("rabbitmq-plugins enable rabbitmq_shovel "),
            "{found:?}"
        );
        let half = missing(&[node(&["rabbitmq_shovel"])], LinkWay::Shovel, "http://mq");
        assert!(half[0].starts_with("the plugin rabbitmq_shovel_management"), "{half:?}");
    }

    #[test]
    fn tags_are_read_as_any_version_writes_them() {
        assert!(is_administrator(&json!(["management", "administrator"])));
        assert!(is_administrator(&json!("management,administrator")));
        assert!(!is_administrator(&json!(["management"])));
        assert!(!is_administrator(&json!(null)));
    }
}
