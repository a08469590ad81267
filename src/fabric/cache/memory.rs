//! The cache of a deployment of one node.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::broadcast;

use super::{Bucket, Counted, Key, News, Token, UNHEARD};

/// How much is remembered at most. Then what is due to be forgotten first is forgotten at once.
const MOST_KEYS: usize = 100_000;

#[derive(Debug)]
pub(super) struct Memory {
    /// When the clock of the buckets began.
    began: Instant,
    state: Mutex<State>,
    channels: Mutex<HashMap<&'static str, broadcast::Sender<News>>>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    last_token: u64,
}

#[derive(Debug)]
struct Entry {
    what: What,
    until: Instant,
}

#[derive(Debug)]
enum What {
    Value(String),
    Fields(HashMap<String, String>),
    Count(u64),
    /// When it is full, in microseconds of the clock of the buckets.
    Bucket(u64),
    Lock {
        holder: String,
        token: Token,
    },
}

impl Default for Memory {
    fn default() -> Self {
        Self { began: Instant::now(), state: Mutex::default(), channels: Mutex::default() }
    }
}

impl Memory {
    pub(super) fn put(&self, key: &Key, value: &str, lasts: Duration) {
        self.state().insert(key, What::Value(value.to_owned()), lasts);
    }

    pub(super) fn get(&self, key: &Key) -> Option<String> {
        match &self.state().find(key)?.what {
            What::Value(value) => Some(value.clone()),
            _ => None,
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        self.state().entries.remove(key);
    }

    pub(super) fn put_field(&self, key: &Key, field: &str, value: &str, lasts: Duration) {
        let mut state = self.state();
        let mut fields = match state.take(key) {
            Some(What::Fields(fields)) => fields,
            _ => HashMap::new(),
        };
        fields.insert(field.to_owned(), value.to_owned());
        state.insert(key, What::Fields(fields), lasts);
    }

    pub(super) fn fields(&self, key: &Key) -> Vec<(String, String)> {
        match self.state().find(key).map(|entry| &entry.what) {
            Some(What::Fields(fields)) => fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn remove_field(&self, key: &Key, field: &str) {
        if let Some(Entry { what: What::Fields(fields), .. }) = self.state().find(key) {
            fields.remove(field);
        }
    }

    pub(super) fn count(&self, key: &Key, forgotten_after: Duration) -> u64 {
        let mut state = self.state();
        let count = match state.find(key).map(|entry| &entry.what) {
            Some(What::Count(count)) => count.saturating_add(1),
            _ => 1,
        };
        state.insert(key, What::Count(count), forgotten_after);
        count
    }

    pub(super) fn counted(&self, key: &Key, forgotten_after: Duration) -> Option<Counted> {
        match self.state().find(key)? {
            Entry { what: What::Count(count), until } => {
                let left = until.saturating_duration_since(Instant::now());
                Some(Counted { count: *count, ago: forgotten_after.saturating_sub(left) })
            }
            _ => None,
        }
    }

    pub(super) fn take(&self, key: &Key, bucket: Bucket) -> Option<Duration> {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut state = self.state();
        let full_at = match state.find(key).map(|entry| &entry.what) {
            Some(What::Bucket(full_at)) => *full_at,
            _ => now,
        };
        match bucket.take(full_at, now) {
            Ok(full_at) => {
                state.insert(key, What::Bucket(full_at), Duration::from_micros(full_at - now));
                None
            }
            Err(wait) => Some(wait),
        }
    }

    pub(super) fn spend(&self, key: &Key, bucket: Bucket, many: u32) -> Option<Duration> {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut state = self.state();
        let full_at = match state.find(key).map(|entry| &entry.what) {
            Some(What::Bucket(full_at)) => *full_at,
            _ => now,
        };
        let (full_at, wait) = bucket.spend(full_at, now, many);
        state.insert(key, What::Bucket(full_at), Duration::from_micros(full_at - now));
        wait
    }

    pub(super) fn acquire(&self, key: &Key, holder: &str, lasts: Duration) -> Option<Token> {
        let mut state = self.state();
        if let Some(Entry { what: What::Lock { holder: other, .. }, .. }) = state.find(key)
            && other != holder
        {
            return None;
        }
        state.last_token += 1;
        let token = Token(state.last_token);
        state.insert(key, What::Lock { holder: holder.to_owned(), token }, lasts);
        Some(token)
    }

    pub(super) fn renew(&self, key: &Key, token: Token, lasts: Duration) -> bool {
        match self.state().find(key) {
            Some(Entry { what: What::Lock { token: held, .. }, until }) if *held == token => {
                *until = Instant::now() + lasts;
                true
            }
            _ => false,
        }
    }

    pub(super) fn release(&self, key: &Key, token: Token) -> bool {
        let mut state = self.state();
        let is_held =
            matches!(state.find(key), Some(Entry { what: What::Lock { token: held, .. }, .. }) if *held == token);
        if is_held {
            state.entries.remove(key);
        }
        is_held
    }

    pub(super) fn publish(&self, channel: &'static str, word: &str) {
        // With nobody there to hear it, it is said to nobody.
        let _ = self.channel(channel).send(News::Said(word.into()));
    }

    pub(super) fn subscribe(&self, channel: &'static str) -> broadcast::Receiver<News> {
        self.channel(channel).subscribe()
    }

    fn channel(&self, channel: &'static str) -> broadcast::Sender<News> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.entry(channel).or_insert_with(|| broadcast::Sender::new(UNHEARD)).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(key).filter(|entry| Instant::now() < entry.until)
    }

    fn take(&mut self, key: &Key) -> Option<What> {
        self.entries.remove(key).filter(|entry| Instant::now() < entry.until).map(|entry| entry.what)
    }

    fn insert(&mut self, key: &Key, what: What, lasts: Duration) {
        if self.entries.len() >= MOST_KEYS && !self.entries.contains_key(key) {
            self.forget_some();
        }
        self.entries.insert(key.clone(), Entry { what, until: Instant::now() + lasts });
    }

    /// Forgets what is due, and at least a tenth.
    fn forget_some(&mut self) {
        let now = Instant::now();
        let mut ends: Vec<Instant> = self.entries.values().map(|entry| entry.until).collect();
        let (_, tenth, _) = ends.select_nth_unstable(MOST_KEYS / 10);
        let upto = now.max(*tenth);
        self.entries.retain(|_, entry| entry.until > upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_what_lasts_longest_is_kept() {
        let memory = Memory::default();
        let kept = Key::lock("kept");
        memory.put(&kept, "x", Duration::from_secs(3600));
        for number in 0..MOST_KEYS + 1_000 {
            memory.put(&Key::lock(&number.to_string()), "x", Duration::from_secs(60));
        }
        assert!(memory.state().entries.len() <= MOST_KEYS);
        assert_eq!(memory.get(&kept).as_deref(), Some("x"));
    }
}
