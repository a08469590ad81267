//! Names as patterns of permissions and policies, and as parts of URLs.

/// Matches nothing that has a name.
pub const NOTHING: &str = "^$";
/// Matches everything.
pub const EVERYTHING: &str = ".*";

/// A name of which every letter stands for itself in a regular expression of Erlang.
pub fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len() + 8);
    for letter in name.chars() {
        if !(letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | ' ' | ':' | '%' | '>')) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// Matches `name` and nothing else.
pub fn exactly(name: &str) -> String {
    format!("^{}$", escaped(name))
}

/// Matches `names`, whatever begins with one of `beginnings`, and nothing else.
pub fn either(names: &[&str], beginnings: &[&str]) -> String {
    let names = names.iter().map(|name| escaped(name));
    let beginnings = beginnings.iter().map(|beginning| format!("{}.*", escaped(beginning)));
    format!("^({})$", names.chain(beginnings).collect::<Vec<_>>().join("|"))
}

/// A name as one part of a path.
pub fn percent_encoded(name: &str) -> String {
    let mut part = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            part.push(char::from(byte));
        } else {
            part.push_str(&format!("%{byte:02X}"));
        }
    }
    part
}

/// The other way; what is no code stands for itself.
pub fn percent_decoded(part: &str) -> String {
    let bytes = part.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_letter_of_a_name_means_something_in_a_pattern() {
        assert_eq!(exactly("fed.in.a.test"), r"^fed\.in\.a\.test$");
        assert_eq!(escaped("[::1]:8448"), r"\[::1\]:8448");
        assert_eq!(escaped("a+b*c(d|e)$^?{}\\"), r"a\+b\*c\(d\|e\)\$\^\?\{\}\\");
        assert_eq!(either(&["fed.in.b"], &["federation: x -> "]), r"^(fed\.in\.b|federation: x -> .*)$");
    }

    #[test]
    fn a_name_in_a_path_comes_back() {
        for name in ["fed.b.test:8448", "[::1]", "a/b c%", "ä", ""] {
            let part = percent_encoded(name);
            assert!(!part.contains(['/', ' ', ':', '[']), "{part}");
            assert_eq!(percent_decoded(&part), name);
        }
        assert_eq!(percent_decoded("%zz%4"), "%zz%4");
    }
}
