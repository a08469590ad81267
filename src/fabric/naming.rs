//! What things are called at a broker: ids in routing keys, and what belongs to the link with a peer.
//!
//! Each peer has a virtual host of its own at this server's broker, so that what its user may do there can touch nothing
//! else:
//!
//! | there | is |
//! | --- | --- |
//! | exchange `fed.out.PEER` (topic) | where this server puts what the peer shall get |
//! | queue `fed.out.PEER` (quorum) | what a shovel carries to the peer; bound while there is a shovel |
//! | exchange `fed.in.PEER` (topic) | where the peer's shovel, or the upstream to it, puts what this server shall get |
//! | queue `fed.in.PEER` (quorum) | what of it was not taken yet |
//! | queue `fed.dead.PEER` (quorum) | what could not be taken, each with a reason |
//! | queue `fed.node.NODE` | copies of the peer's responses, one queue for each node where there may be several |

use ruma::ServerName;

/// An id as one word of a routing key, in which `.` would be the end of a word: percent-encoded but for letters, digits, `-`
/// and `_`.
pub fn word(id: &str) -> String {
    let mut word = String::with_capacity(id.len() + 8);
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            word.push(char::from(byte));
        } else {
            word.push_str(&format!("%{byte:02X}"));
        }
    }
    word
}

/// The id that [`word`] made a word of; `None`: it made no such word.
pub fn id_of(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit()? << 4 | digit()?);
            }
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') => bytes.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

/// The virtual host of the link with `peer`.
pub fn vhost(peer: &ServerName) -> String {
    format!("fed.{peer}")
}

/// The exchange, and the queue, of what `peer` shall get.
pub fn outgoing(peer: &ServerName) -> String {
    format!("fed.out.{peer}")
}

/// The exchange, and the queue, of what came from `peer`.
pub fn incoming(peer: &ServerName) -> String {
    format!("fed.in.{peer}")
}

/// The queue of what came from `peer` and could not be taken.
pub fn dead(peer: &ServerName) -> String {
    format!("fed.dead.{peer}")
}

/// The queue of one node of several, in the virtual host of a peer.
pub fn of_node(node: &str) -> String {
    format!("fed.node.{node}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_word_and_comes_back() {
        for id in ["!room:a.example", "@ä.b:c#*", "", "plain-_9"] {
            let word = word(id);
            assert!(!word.contains(['.', '#', '*']), "{word}");
            assert_eq!(id_of(&word).as_deref(), Some(id));
        }
        for no_word in ["a.b", "%", "%4", "%zz", "%FF", "%+1"] {
            assert_eq!(id_of(no_word), None, "{no_word}");
        }
    }
}
