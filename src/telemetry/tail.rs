//! Puts each line that is logged where administrators find the last ones.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use api::logs::Logs;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// What of a line is its text.
const MESSAGE: &str = "message";

/// Puts lines into the log that is kept in memory.
pub(super) struct Tail {
    logs: Arc<Logs>,
}

impl Tail {
    pub(super) fn new(logs: Arc<Logs>) -> Self {
        Self { logs }
    }
}

impl<S: Subscriber> Layer<S> for Tail {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let metadata = event.metadata();
        self.logs.push(at, *metadata.level(), metadata.target(), &said.message, said.fields);
    }
}

/// What a line says.
#[derive(Default)]
struct Said {
    message: String,
    fields: Map<String, Value>,
}

impl Said {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == MESSAGE {
            self.message = text;
        } else {
            self.put(field, text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    /// With what caused it.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.put(field, text);
    }
}

#[cfg(test)]
mod tests {
    use api::logs::LogSearch;
    use tracing::Level;
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    use super::*;

    #[test]
    fn a_line_is_found_with_its_fields() {
        let logs = Arc::<Logs>::default();
        let subscriber = Registry::default().with(Tail::new(logs.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let error = std::io::Error::other("no space");
            let error = &error as &(dyn std::error::Error + 'static);
            tracing::warn!(count = 3, user.id = %"@alice:a.test", error, access_token = "cat_x", "could not {}", "write");
        });
        let (target, text) = (String::new(), String::new());
        let search = LogSearch { after: 0, since: 0, level: Level::WARN, target, text, limit: 10 };
        let page = logs.find(&search);
        let line = &page.lines[0];
        assert_eq!((line.level, line.message.as_str()), ("warn", "could not write"));
        let expected = serde_json::json!({
            "count": 3, "user.id": "@alice:a.test", "error": "no space", "access_token": "…",
        });
        assert_eq!(Value::from(line.fields.clone()), expected);
    }
}
