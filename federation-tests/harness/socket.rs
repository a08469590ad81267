//! A client of the native API's WebSocket.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, client::IntoClientRequest as _, http::HeaderValue, protocol::WebSocketConfig},
};

use crate::{Client, PATIENCE, enc};

/// A WebSocket on which a client is told what happens.
#[derive(Debug)]
pub struct Socket {
    web: WebSocketStream<TcpStream>,
    /// The first frame.
    pub hello: Value,
    /// The position of the last frame that was taken.
    pub position: String,
    /// Taken and not asked for yet.
    waiting: VecDeque<Value>,
    /// Whether what is taken is acknowledged at once.
    pub acknowledges: bool,
}

/// How the server has closed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// 1006: without a word.
    pub code: u16,
    /// In a word.
    pub reason: String,
}

impl Socket {
    /// Opens one with the client's access token, from now on.
    pub async fn open(client: &Client) -> Self {
        Self::opened(Self::try_open(client, "", client.token.as_deref()).await)
    }

    /// Opens one that goes on from `position`.
    pub async fn resume(client: &Client, position: &str) -> Self {
        let query = format!("?resume={}", enc(position));
        Self::opened(Self::try_open(client, &query, client.token.as_deref()).await)
    }

    /// Opens one with a ticket, at the server that `client` speaks to.
    pub async fn with_ticket(client: &Client, ticket: &str) -> Result<Self, (u16, Value)> {
        Self::try_open(client, &format!("?ticket={}", enc(ticket)), None).await
    }

    #[track_caller]
    fn opened(opened: Result<Self, (u16, Value)>) -> Self {
        opened.unwrap_or_else(|(status, problem)| panic!("no WebSocket: {status} {problem}"))
    }

    /// Tries to open one. An error: the status and the problem document.
    pub async fn try_open(client: &Client, query: &str, token: Option<&str>) -> Result<Self, (u16, Value)> {
        let address = client.base.trim_start_matches("http://");
        let url = format!("ws://{address}/api/v1/realtime{query}");
        let mut request = url.into_client_request().expect("it is a URL");
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("tokens are ASCII");
            request.headers_mut().insert("Authorization", value);
        }
        let stream = TcpStream::connect(address).await.expect("the server listens");
        let _ = stream.set_nodelay(true);
        // Thousands of them are open at once in one process.
        let config = WebSocketConfig::default().read_buffer_size(2 << 10).write_buffer_size(0);
        let opening = client_async_with_config(request, stream, Some(config));
        let web = match timeout(PATIENCE, opening).await.expect("the server answers") {
            Ok((web, _)) => web,
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                return Err((response.status().as_u16(), serde_json::from_slice(body).unwrap_or_default()));
            }
            Err(error) => panic!("no WebSocket: {error}"),
        };
        let (hello, position, waiting) = (Value::Null, String::new(), VecDeque::new());
        let mut socket = Self { web, hello, position, waiting, acknowledges: true };
        socket.hello = socket.take().await.expect("it says hello");
        assert_eq!(socket.hello["type"], "hello");
        Ok(socket)
    }

    /// The next frame, whatever it is.
    pub async fn take(&mut self) -> Result<Value, Closed> {
        if let Some(frame) = self.waiting.pop_front() {
            return Ok(frame);
        }
        let taken = timeout(PATIENCE, self.take_from_wire()).await;
        taken.unwrap_or_else(|_| panic!("nothing came for {PATIENCE:?} after {}", self.position))
    }

    async fn take_from_wire(&mut self) -> Result<Value, Closed> {
        loop {
            match self.web.next().await {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                    self.note(&frame).await;
                    return Ok(frame);
                }
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(Closed { code: frame.code.into(), reason: frame.reason.to_string() });
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Closed { code: 1006, reason: String::new() }),
            }
        }
    }

    async fn note(&mut self, frame: &Value) {
        // What only answers a frame of the client is no place to go on from.
        let kind = frame["type"].as_str().unwrap_or_default();
        let Some(position) = frame["position"].as_str().filter(|_| kind != "pong") else { return };
        position.clone_into(&mut self.position);
        if self.acknowledges && !matches!(kind, "hello" | "heartbeat" | "reset") {
            let ack = json!({ "type": "ack", "position": position }).to_string();
            // Who is closed already hears so with the next frame.
            let _ = self.web.send(Message::text(ack)).await;
        }
    }

    /// The next frame of a type; others are passed over.
    #[track_caller]
    pub fn next(&mut self, kind: &str) -> impl Future<Output = Value> {
        self.find(move |frame| frame["type"] == kind)
    }

    /// The next frame of which something holds; others are passed over.
    pub async fn find(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.take().await.unwrap_or_else(|closed| panic!("it was closed: {closed:?}"));
            if is_it(&frame) {
                return frame;
            }
        }
    }

    /// The texts of the next `count` messages, in order.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            let message = self.next("message").await;
            texts.push(message["data"]["content"]["text"].as_str().expect("it is a text").to_owned());
        }
        texts
    }

    /// Whether nothing but signs of life comes for so long.
    pub async fn is_quiet(&mut self, time: Duration) -> bool {
        let began = std::time::Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()) {
            match timeout(left, self.take()).await {
                Err(_) => return true,
                Ok(Ok(frame)) if frame["type"] == "heartbeat" => {}
                Ok(_) => return false,
            }
        }
        true
    }

    /// Says something.
    pub async fn say(&mut self, frame: Value) {
        self.say_text(&frame.to_string()).await;
    }

    /// Says something that may be no frame.
    pub async fn say_text(&mut self, text: &str) {
        timeout(PATIENCE, self.web.send(Message::text(text))).await.expect("the server reads").expect("it is open");
    }

    /// Says something in bytes.
    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        self.web.send(Message::binary(bytes.to_vec())).await.expect("it is open");
    }

    /// Waits until the server closes it, and answers how; what comes before is passed over.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.take().await {
                return closed;
            }
        }
    }

    /// Ends it without a word, as when a network breaks.
    pub fn break_off(self) -> String {
        self.position
    }
}
