//! The way to the bucket: the client that everything else has too, with an end to each attempt, and figures.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use http::Method;
use metrics::{counter, histogram};
use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
};
use tokio::time::timeout;

/// How long one attempt may take to be answered.
const ATTEMPT: Duration = Duration::from_secs(15);

/// And one that brings bytes, or has the bucket put a large file together.
const LONG_ATTEMPT: Duration = Duration::from_secs(50);

/// The way to the bucket.
#[derive(Clone, Debug)]
pub(super) struct Way(pub(super) reqwest::Client);

impl HttpConnector for Way {
    /// Whoever made the client has set all that could be set by `_options`.
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Way {
    fn call<'a, 'call>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'call>>
    where
        'a: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            let (method, began) = (label(request.method()), Instant::now());
            let limit = if matches!(method, "put" | "post") { LONG_ATTEMPT } else { ATTEMPT };
            let answer = timeout(limit, self.0.call(request)).await;
            let answer = answer.unwrap_or_else(|elapsed| Err(HttpError::new(HttpErrorKind::Timeout, elapsed)));
            let outcome = match &answer {
                Ok(answer) if answer.status().is_server_error() => "failed",
                Ok(answer) if answer.status() == 404 => "not_found",
                Ok(answer) if answer.status().is_client_error() => "refused",
                Ok(_) => "ok",
                Err(_) => "unreachable",
            };
            counter!("comity_media_bucket_requests_total", "method" => method, "outcome" => outcome).increment(1);
            histogram!("comity_media_bucket_request_seconds", "method" => method).record(began.elapsed());
            answer
        })
    }
}

fn label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "PUT" => "put",
        "POST" => "post",
        "DELETE" => "delete",
        _ => "other",
    }
}
