//! The names of what is in the cache.

use ruma::UserId;

/// A key. `{…}` is the part by which a cluster chooses the slot, so that what belongs to one user, or to one lock, lies together.
///
/// | key | type | lasts | what | without the cache |
/// |---|---|---|---|---|
/// | `presence:{USER}` | hash, node → ms | 30 s after a node told it last; of another server's user 35 min | which nodes see a user, and when active last | each node knows of its own users |
/// | `ws:session:{USER}` | hash, device → node | as long as it is refreshed | where a user's devices are connected | every node looks |
/// | `im:unread:{USER}` | hash, room → count | until it is counted anew | what is unread | counted from the store |
/// | `im:rate:KIND:{WHO}` | string, µs | until the bucket is full | when a bucket is full again | a bucket in each node |
/// | `im:failed:{ACCOUNT}` | string, count | 15 min after the last | wrong passwords of late | counted in each node |
/// | `im:lock:{NAME}` | hash, holder and token | the lock's time | who does something now | everybody does it |
/// | `im:lock:{NAME}:token` | string | a day | the last token of a lock | – |
/// | `remote:{USER}` | string, JSON | as the profile says | what is known of a user of another domain | asked anew |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// Which nodes see a user.
    pub fn presence(user_id: &UserId) -> Self {
        Self(format!("presence:{{{user_id}}}"))
    }

    /// Where a user's devices are connected.
    pub fn sessions(user_id: &UserId) -> Self {
        Self(format!("ws:session:{{{user_id}}}"))
    }

    /// What is unread, by room.
    pub fn unread(user_id: &UserId) -> Self {
        Self(format!("im:unread:{{{user_id}}}"))
    }

    /// The bucket of `who`. `kind`: of what; a word.
    pub fn rate(kind: &str, who: &str) -> Self {
        Self(format!("im:rate:{kind}:{{{who}}}"))
    }

    /// The wrong passwords for an account.
    pub fn failed(account: &str) -> Self {
        Self(format!("im:failed:{{{account}}}"))
    }

    /// A lock.
    pub fn lock(name: &str) -> Self {
        Self(format!("im:lock:{{{name}}}"))
    }

    /// A user of another domain.
    pub fn remote_user(user_id: &UserId) -> Self {
        Self(format!("remote:{{{user_id}}}"))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn all_keys_of_a_user_lie_in_one_slot() {
        let alice = user_id!("@alice:a.test");
        let keys = [Key::presence(alice), Key::sessions(alice), Key::unread(alice), Key::remote_user(alice)];
        let tag =
            |key: &Key| key.0.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag.to_owned());
        assert!(keys.iter().all(|key| tag(key).as_deref() == Some("@alice:a.test")), "{keys:?}");
        assert_eq!(keys[1].as_str(), "ws:session:{@alice:a.test}");
    }
}
