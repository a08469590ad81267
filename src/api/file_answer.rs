//! A file as an answer: its headers, so that a browser does nothing with it that somebody else would like, and its bytes
//! piece by piece.

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use media::{Item, MediaError, is_shown_inline};
use ruma::http_headers::{ContentDisposition, ContentDispositionType};

use crate::Error;

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid>
const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                                       style-src 'unsafe-inline'; object-src 'self';";

/// What an address names never changes, but whoever may see it may change.
const PRIVATE: &str = "private, max-age=31536000, immutable";
const PUBLIC: &str = "public, max-age=86400, s-maxage=86400";

/// Who may keep an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cached {
    /// The one who asked.
    Privately,
    /// Everybody on the way, too.
    Publicly,
}

/// Answers a file, or the part of it that `asked` has a `Range` for, or that the asker has it already.
pub(crate) async fn answer(item: Item, asked: &HeaderMap, cached: Cached) -> Result<Response, Error> {
    let tag = format!("\"{}\"", item.tag);
    let mut response = Response::new(Body::empty());
    set_headers(response.headers_mut(), &item, &tag, cached);
    if has_tag(asked, &tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let size = item.size;
    let (start, length) = match range_of(asked, size) {
        Range::Whole => (0, size),
        Range::Part(first, last) => {
            let range = header_value(&format!("bytes {first}-{last}/{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            (first, last - first + 1)
        }
        Range::Impossible => {
            let range = header_value(&format!("bytes */{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return Ok(response);
        }
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let pieces = item.read(start, length).await.map_err(MediaError::from)?;
    *response.body_mut() = Body::from_stream(pieces);
    Ok(response)
}

/// Inline only what is harmless to show; the name without anything but a name.
pub(crate) fn disposition_of(item: &Item) -> ContentDisposition {
    let kind = match is_shown_inline(&item.content_type) {
        true => ContentDispositionType::Inline,
        false => ContentDispositionType::Attachment,
    };
    ContentDisposition::new(kind).with_filename(item.file_name.clone())
}

fn set_headers(headers: &mut HeaderMap, item: &Item, tag: &str, cached: Cached) {
    let cache_control = match cached {
        Cached::Privately => PRIVATE,
        Cached::Publicly => PUBLIC,
    };
    let fixed = [
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, cache_control),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, header_value(&item.content_type));
    headers.insert(header::CONTENT_DISPOSITION, header_value(&disposition_of(item).to_string()));
    headers.insert(header::ETAG, header_value(tag));
}

/// What no header can hold is left out; what is stored was looked at before.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

fn has_tag(asked: &HeaderMap, tag: &str) -> bool {
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    known.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
}

enum Range {
    Whole,
    /// From, and to.
    Part(u64, u64),
    Impossible,
}

/// One range is honoured. Several, or what is none, count as if they weren't there, as HTTP allows.
fn range_of(asked: &HeaderMap, size: u64) -> Range {
    let range = asked.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some(Ok(parsed)) = range.map(http_range_header::parse_range_header) else { return Range::Whole };
    match parsed.validate(size).as_deref() {
        Ok([range]) => Range::Part(*range.start(), *range.end()),
        Ok(_) => Range::Whole,
        Err(_) => Range::Impossible,
    }
}
