//! HTTP/1.1 with as little work as possible: a keep-alive connection, requests made by hand, answers read to their end.

use std::io;

use federation_tests::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A keep-alive connection with one request on its way at a time.
pub struct Wire {
    stream: TcpStream,
    /// What has been read of the answer.
    buffer: Vec<u8>,
    request: Vec<u8>,
    /// The headers that stay the same.
    headers: String,
}

/// What came back; it lives in the connection's buffer until the next request.
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: &'a str,
}

impl Answer<'_> {
    /// The text between `"key":"` and the next quote: enough for tokens and ids.
    pub fn text(&self, key: &str) -> Option<&str> {
        let pattern = format!("\"{key}\":\"");
        let start = self.body.find(&pattern)? + pattern.len();
        let length = self.body[start..].find('"')?;
        Some(&self.body[start..start + length])
    }
}

impl Wire {
    /// Connects as `client` to the server at `address`.
    pub async fn connect(address: &str, client: &Client) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket option");
        let token = client.token.as_deref().expect("the client is logged in");
        let headers = format!(" HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n");
        Self { stream, buffer: Vec::with_capacity(4096), request: Vec::with_capacity(1024), headers }
    }

    /// Sends one request and waits for its answer.
    pub async fn exchange(&mut self, method: &str, path: &str, body: Option<&str>) -> Answer<'_> {
        self.write(method, path, body).await.expect("the server reads");
        self.read().await.expect("the server answers")
    }

    async fn write(&mut self, method: &str, path: &str, body: Option<&str>) -> io::Result<()> {
        self.request.clear();
        for part in [method, " ", path, &self.headers] {
            self.request.extend_from_slice(part.as_bytes());
        }
        match body {
            Some(body) => {
                let length = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
                self.request.extend_from_slice(length.as_bytes());
                self.request.extend_from_slice(body.as_bytes());
            }
            None => self.request.extend_from_slice(b"\r\n"),
        }
        self.stream.write_all(&self.request).await
    }

    async fn read(&mut self) -> io::Result<Answer<'_>> {
        self.buffer.clear();
        let (status, start, length) = loop {
            if let Some(head) = head(&self.buffer) {
                break head;
            }
            self.more().await?;
        };
        match length {
            Some(length) => {
                while self.buffer.len() < start + length {
                    self.more().await?;
                }
            }
            None => {
                while !self.buffer.ends_with(b"0\r\n\r\n") {
                    self.more().await?;
                }
            }
        }
        let body = std::str::from_utf8(&self.buffer[start..]).map_err(io::Error::other)?;
        Ok(Answer { status, body })
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Status, where the body begins, and its length; no length means that it comes in chunks.
fn head(buffer: &[u8]) -> Option<(u16, usize, Option<usize>)> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&buffer[..end]).expect("the head is text");
    let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().expect("a length"))
    });
    Some((status, end + 4, length))
}
