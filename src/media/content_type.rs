//! What a file is said to be, and how far that is believed.

use mime::Mime;

pub(crate) const UNKNOWN: &str = "application/octet-stream";

/// No honest type is longer.
const LONGEST: usize = 255;

/// What a browser may show by itself; everything else is saved to a file. The specification's list.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content>
const SHOWN_INLINE: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// Whether a browser may show a file of this type by itself.
pub fn is_shown_inline(content_type: &str) -> bool {
    content_type.parse::<Mime>().is_ok_and(|mime| SHOWN_INLINE.contains(&mime.essence_str()))
}

/// The type as it was given, if it is one.
pub(crate) fn normalised(content_type: Option<&str>) -> String {
    match content_type.map(str::trim) {
        Some(given) if given.len() <= LONGEST && given.is_ascii() && given.parse::<Mime>().is_ok() => given.to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

/// What another server says of a file, unless its first bytes show that it can't be: who calls something a picture that
/// isn't one wants it to be opened.
pub(crate) fn believed(content_type: Option<&str>, head: &[u8]) -> String {
    let given = normalised(content_type);
    let is_possible = match given.parse::<Mime>() {
        Ok(mime) => match mime.essence_str() {
            "image/png" | "image/apng" => head.starts_with(b"\x89PNG\r\n\x1a\n"),
            "image/jpeg" => head.starts_with(b"\xff\xd8\xff"),
            "image/gif" => head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a"),
            "image/webp" => head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP"),
            "image/avif" => head.get(4..8) == Some(b"ftyp"),
            _ => true,
        },
        Err(_) => false,
    };
    if is_possible { given } else { UNKNOWN.to_owned() }
}

/// The name of a file, without what a name must not have: a path, control characters, characters that turn the order of
/// the others around.
pub(crate) fn safe_file_name(given: &str) -> Option<String> {
    let name = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let is_harmless = |c: &char| {
        !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut name: String = name.chars().filter(is_harmless).collect();
    name.truncate(name.floor_char_boundary(LONGEST));
    let name = name.trim();
    (!name.is_empty() && name.chars().any(|c| c != '.')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_types_are_shown_by_a_browser() {
        assert!(is_shown_inline("image/png"));
        assert!(is_shown_inline("TEXT/plain; charset=utf-8"));
        for dangerous in
            ["text/html", "image/svg+xml", "application/xhtml+xml", "application/pdf", "image/png,text/html"]
        {
            assert!(!is_shown_inline(dangerous), "{dangerous}");
        }
    }

    #[test]
    fn what_is_no_type_is_unknown_and_a_picture_must_look_like_one() {
        assert_eq!(normalised(Some("text/html")), "text/html");
        for nonsense in [None, Some(""), Some("picture"), Some("text/plain\r\nX: y"), Some("é/é")] {
            assert_eq!(normalised(nonsense), UNKNOWN);
        }
        assert_eq!(believed(Some("image/png"), b"\x89PNG\r\n\x1a\n..."), "image/png");
        assert_eq!(believed(Some("image/png"), b"<script>"), UNKNOWN);
        assert_eq!(believed(Some("image/webp"), b"RIFF"), UNKNOWN);
        assert_eq!(believed(Some("video/mp4"), b""), "video/mp4");
    }

    #[test]
    fn a_file_name_has_no_path_and_no_tricks() {
        assert_eq!(safe_file_name("cat.png").as_deref(), Some("cat.png"));
        assert_eq!(safe_file_name("../../etc/passwd").as_deref(), Some("passwd"));
        assert_eq!(safe_file_name("C:\\Users\\x.doc").as_deref(), Some("x.doc"));
        assert_eq!(safe_file_name("a\r\nb\0\u{202e}gnp.exe").as_deref(), Some("abgnp.exe"));
        assert_eq!(safe_file_name("Büro 日本.txt").as_deref(), Some("Büro 日本.txt"));
        assert_eq!(safe_file_name(&"ü".repeat(300)).map(|name| name.len()), Some(254));
        for nothing in ["", "/", "..", " \n"] {
            assert_eq!(safe_file_name(nothing), None);
        }
    }
}
