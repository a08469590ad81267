//! What a file is, as far as its first bytes tell.
//!
//! Only marks of at least three bytes count: a file that its sender has encrypted begins with anything at all, and by two bytes
//! one in a few thousand would be taken for something it isn't.

/// How Windows programs are called here; those who send them have other names for them too.
const WINDOWS_PROGRAM: &str = "application/x-msdownload";

/// What is run rather than looked at, by the names that are found here and by those that others give it.
pub(crate) const EXECUTABLE: &[&str] = &[
    WINDOWS_PROGRAM,
    "application/x-executable",
    "application/x-mach-binary",
    "text/x-shellscript",
    "application/java-vm",
    "application/vnd.microsoft.portable-executable",
    "application/x-dosexec",
    "application/x-msdos-program",
    "application/x-elf",
    "application/x-sharedlib",
    "application/x-pie-executable",
    "application/x-sh",
    "application/x-shellscript",
    "application/x-msi",
    "application/x-ms-shortcut",
    "application/bat",
    "application/x-bat",
];

/// Where there is one answer for one beginning.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (b"\x7fELF", "application/x-executable"),
    (b"\xfe\xed\xfa\xce", "application/x-mach-binary"),
    (b"\xfe\xed\xfa\xcf", "application/x-mach-binary"),
    (b"\xce\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"#!/", "text/x-shellscript"),
    (b"#! /", "text/x-shellscript"),
    (b"\x4c\x00\x00\x00\x01\x14\x02\x00", "application/x-ms-shortcut"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"{\\rtf", "application/rtf"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\x37\x7a\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
];

/// What a file is, by its beginning; `None`: that doesn't tell. `declared`: what it is said to be, without parameters; of what can
/// hold several things that is believed as to which.
pub(crate) fn sniff<'a>(declared: &'a str, head: &[u8]) -> Option<&'a str> {
    if let Some((_, found)) = BEGINNINGS.iter().find(|(beginning, _)| head.starts_with(beginning)) {
        // What is animated begins the same.
        return Some(if (declared, *found) == ("image/apng", "image/png") { declared } else { found });
    }
    let one_of = |kinds: &[&str], otherwise: &'static str| {
        Some(if kinds.iter().any(|kind| declared.starts_with(kind)) { declared } else { otherwise })
    };
    match head {
        [b'M', b'Z', ..] if is_windows_program(head) => Some(WINDOWS_PROGRAM),
        // Programs for several processors begin as those for Java do, with their number where the other has its version.
        [0xca, 0xfe, 0xba, 0xbe, version @ ..] => match version {
            [0, 0, 0, 0..45, ..] => Some("application/x-mach-binary"),
            _ => Some("application/java-vm"),
        },
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => one_of(&["audio/"], "audio/wav"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => one_of(&["video/"], "video/x-msvideo"),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand {
            [b'a', b'v', b'i', b'f' | b's', ..] => Some("image/avif"),
            [b'h', b'e', b'i' | b'v', ..] | [b'm', b'i' | b's', b'f', b'1', ..] => one_of(&["image/hei"], "image/heic"),
            _ => one_of(&["video/", "audio/"], "video/mp4"),
        },
        [0x1a, 0x45, 0xdf, 0xa3, ..] => one_of(&["video/", "audio/"], "video/webm"),
        [b'O', b'g', b'g', b'S', ..] => one_of(&["audio/", "video/"], "application/ogg"),
        [b'P', b'K', 3, 4, ..] => Some(archive(declared, "application/zip")),
        [0x1f, 0x8b, 8, ..] => Some(archive(declared, "application/gzip")),
        [0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ..] => Some(archive(declared, "application/x-ole-storage")),
        _ => is_html(head).then_some("text/html"),
    }
}

/// Documents and packages are archives, and which of them is for whoever made one to say.
fn archive<'a>(declared: &'a str, otherwise: &'static str) -> &'a str {
    let is_said = declared.starts_with("application/") && declared != super::content_type::UNKNOWN;
    if is_said { declared } else { otherwise }
}

/// The offset of the second header must be one: many a text begins with these two letters, and has letters there.
fn is_windows_program(head: &[u8]) -> bool {
    let offset = head.get(0x3c..0x40).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    offset.is_some_and(|offset| offset < 0x1000_0000)
}

fn is_html(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    [&b"<!doctype html"[..], b"<html", b"<script", b"<iframe"]
        .iter()
        .any(|tag| text.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows_program() -> Vec<u8> {
        let mut program = vec![0; 0x40];
        program[..2].copy_from_slice(b"MZ");
        program[0x3c] = 0x80;
        program
    }

    #[test]
    fn programs_are_known_whatever_they_are_called() {
        let fat = b"\xca\xfe\xba\xbe\0\0\0\x02";
        let java = b"\xca\xfe\xba\xbe\0\0\0\x3d";
        let programs: [(&[u8], &str); 6] = [
            (&windows_program(), WINDOWS_PROGRAM),
            (b"\x7fELF\x02\x01", "application/x-executable"),
            (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
            (fat, "application/x-mach-binary"),
            (java, "application/java-vm"),
            (b"#!/bin/sh\n", "text/x-shellscript"),
        ];
        for (head, kind) in programs {
            for declared in ["image/png", "application/octet-stream", "text/plain", "application/pdf"] {
                assert_eq!(sniff(declared, head), Some(kind));
            }
            assert!(EXECUTABLE.contains(&kind), "{kind}");
        }
    }

    #[test]
    fn what_only_looks_like_something_is_left_alone() {
        let letters = [&b"MZ is what my letter begins with, and then it goes on and on and on"[..], b"MZ"];
        let chance = [&b"\xff\xfb\x90\x44"[..], b"\x1f\x8b\x01", b"BM....", b"#!?"];
        for head in letters.into_iter().chain(chance).chain([&b""[..], b"hello"]) {
            assert_eq!(sniff("application/octet-stream", head), None, "{head:?}");
        }
    }

    #[test]
    fn of_what_holds_several_kinds_the_declared_one_is_believed_if_it_can_be() {
        let document = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
        assert_eq!(sniff(document, b"PK\x03\x04rest"), Some(document));
        assert_eq!(sniff("image/png", b"PK\x03\x04rest"), Some("application/zip"));
        assert_eq!(sniff("application/octet-stream", b"PK\x03\x04rest"), Some("application/zip"));
        assert_eq!(sniff("audio/mp4", b"\0\0\0\x20ftypM4A "), Some("audio/mp4"));
        assert_eq!(sniff("text/plain", b"\0\0\0\x20ftypisom"), Some("video/mp4"));
        assert_eq!(sniff("image/apng", b"\x89PNG\r\n\x1a\n"), Some("image/apng"));
        assert_eq!(sniff("image/gif", b"\x89PNG\r\n\x1a\n"), Some("image/png"));
        assert_eq!(sniff("text/plain", b" \n<!DOCTYPE HTML><p>"), Some("text/html"));
    }
}
