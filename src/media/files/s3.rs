//! `[media.s3]`: which bucket it is, and how it is reached.

use std::{fmt, io, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
};
use zeroize::Zeroizing;

use super::{Bucket, http::Way};
use crate::upload::new_id;

/// How often a step is tried again, and until when.
const RETRIES: usize = 3;
const RETRY_FOR: Duration = Duration::from_secs(40);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// How long the first words with the bucket may take.
const LONGEST_PROBE: Duration = Duration::from_secs(45);

/// `[media.s3]`.
#[derive(Clone)]
pub struct S3Config {
    /// Where it is, without a path; `None`: at Amazon.
    pub endpoint: Option<String>,
    /// What the bucket is called.
    pub bucket: String,
    /// Where the bucket is said to be.
    pub region: String,
    /// What the names of all files begin with.
    pub prefix: String,
    /// Who this server is there, and its secret; `None`: what programs of Amazon's find in the environment or at the machine.
    pub credentials: Option<(String, Zeroizing<String>)>,
    /// Whether the bucket is the first part of the path, rather than of the host's name.
    pub path_style: bool,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, bucket, region, prefix, credentials, path_style } = self;
        let login = credentials.as_ref().map(|(id, _)| id);
        let mut shown = f.debug_struct("S3Config");
        shown.field("endpoint", endpoint).field("bucket", bucket).field("region", region).field("prefix", prefix);
        shown.field("access_key_id", &login).field("path_style", path_style).finish_non_exhaustive()
    }
}

/// Opens the bucket, and sees that it can be written, read, listed and cleaned up.
pub(crate) async fn open(config: &S3Config, http: reqwest::Client) -> io::Result<Bucket> {
    let store = client(config, http).map_err(io::Error::other)?;
    let bucket = Bucket::new(Arc::new(store), &config.prefix);
    match tokio::time::timeout(LONGEST_PROBE, bucket.probe(&new_id())).await {
        Ok(probed) => probed?,
        Err(elapsed) => return Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)),
    }
    Ok(bucket)
}

fn client(config: &S3Config, http: reqwest::Client) -> object_store::Result<AmazonS3> {
    let mut builder = match &config.credentials {
        Some((id, secret)) => {
            AmazonS3Builder::new().with_access_key_id(id.as_str()).with_secret_access_key(secret.as_str())
        }
        None => AmazonS3Builder::from_env(),
    };
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint_of(endpoint, config));
    }
    let mut retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() };
    retry.backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    builder
        .with_bucket_name(config.bucket.as_str())
        .with_region(config.region.as_str())
        .with_virtual_hosted_style_request(!config.path_style)
        .with_retry(retry)
        // One by one, files go from everything that speaks S3.
        .with_disable_bulk_delete(true)
        .with_http_connector(Way(http))
        .build()
}

/// Without path style the name of the bucket is the first part of the host's.
fn endpoint_of(endpoint: &str, config: &S3Config) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.split_once("://") {
        Some((scheme, host)) if !config.path_style => format!("{scheme}://{}.{host}", config.bucket),
        _ => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path_style: bool) -> S3Config {
        let credentials = Some(("me".to_owned(), Zeroizing::new("a well kept one".to_owned())));
        let (endpoint, bucket) = (Some("https://s3.a.test/".to_owned()), "im".to_owned());
        S3Config { endpoint, bucket, region: "eu".to_owned(), prefix: String::new(), credentials, path_style }
    }

    #[test]
    fn a_bucket_is_in_the_path_or_in_the_name_of_the_host() {
        let of = |config: &S3Config| endpoint_of(config.endpoint.as_deref().expect("it has one"), config);
        assert_eq!(of(&config(true)), "https://s3.a.test");
        assert_eq!(of(&config(false)), "https://im.s3.a.test");
    }

    #[test]
    fn the_secret_is_not_shown() {
        let shown = format!("{:?}", config(true));
        assert!(shown.contains("\"me\"") && !shown.contains("well kept"), "{shown}");
    }
}
