//! Where in a body a fault lies: `content.users[2].id`, for messages that name the field.

/// The path of the innermost value that begins at or before `line` and `column` (both from 1, as serde_json counts).
///
/// Answers `None` at the top level.
pub(crate) fn path_at(json: &str, line: usize, column: usize) -> Option<String> {
    let line_start: usize = json.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let end = (line_start + column).min(json.len());
    let bytes = &json.as_bytes()[..end];

    enum Level {
        Object(String),
        Array(usize),
    }
    let mut levels: Vec<Level> = Vec::new();
    let mut expects_key = false;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => {
                levels.push(Level::Object(String::new()));
                expects_key = true;
            }
            b'[' => {
                levels.push(Level::Array(0));
                expects_key = false;
            }
            // The fault may be told at the very end of the value it concerns.
            b'}' | b']' if at + 1 < bytes.len() => {
                levels.pop();
            }
            b',' => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                _ => expects_key = true,
            },
            b'"' => {
                let start = at + 1;
                at = start;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                if expects_key && let Some(Level::Object(key)) = levels.last_mut() {
                    *key = String::from_utf8_lossy(&bytes[start.min(bytes.len())..at.min(bytes.len())]).into_owned();
                    expects_key = false;
                }
            }
            _ => {}
        }
        at += 1;
    }

    let mut path = String::new();
    for level in levels {
        match level {
            Level::Object(key) if key.is_empty() => {}
            Level::Object(key) if path.is_empty() => path = key,
            Level::Object(key) => path = format!("{path}.{key}"),
            Level::Array(index) => path = format!("{path}[{index}]"),
        }
    }
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::path_at;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Body {
        name: Option<String>,
        users: Option<Vec<User>>,
    }
    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct User {
        age: u32,
    }

    fn fault(json: &str) -> Option<String> {
        let error = serde_json::from_str::<Body>(json).expect_err("the body is at fault");
        path_at(json, error.line(), error.column())
    }

    #[test]
    fn a_wrong_type_is_named_by_its_field() {
        assert_eq!(fault(r#"{"name": 5}"#).as_deref(), Some("name"));
        assert_eq!(fault("{\"users\": [],\n \"name\": 5}").as_deref(), Some("name"));
    }

    #[test]
    fn a_nested_fault_has_its_whole_path() {
        assert_eq!(fault(r#"{"name": "a,{", "users": [{"age": 3}, {"age": "old"}]}"#).as_deref(), Some("users[1].age"));
    }

    #[test]
    fn a_fault_of_the_whole_has_no_path() {
        assert_eq!(fault("5"), None);
        assert_eq!(path_at("", 0, 0), None);
    }
}
