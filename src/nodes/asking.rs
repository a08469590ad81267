//! One node asks the others who is connected to them, and waits a little for what they answer.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use store::Store;
use sync::feed::{NodeQuestion, NodeReply, OtherNodes, Replies};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::{Nodes, Word};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many answers to one question are taken.
const MOST_ANSWERS: usize = 64;
/// How many questions are open at once; who asks another one is answered by nobody.
const MOST_QUESTIONS: usize = 64;

/// Who waits for what others answer, by the question's number.
#[derive(Default)]
pub(super) struct Asked(Mutex<HashMap<u64, mpsc::Sender<NodeReply>>>);

impl Asked {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<NodeReply>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has answered. Who answers too late is not heard.
    pub(super) fn hear(&self, number: u64, reply: NodeReply) {
        if let Some(asker) = self.open().get(&number) {
            let _ = asker.try_send(reply);
        }
    }
}

/// A question that is open until this is dropped.
struct Question<'a> {
    asked: &'a Asked,
    number: u64,
    replies: mpsc::Receiver<NodeReply>,
}

impl<'a> Question<'a> {
    fn new(asked: &'a Asked) -> Option<Self> {
        let (sender, replies) = mpsc::channel(MOST_ANSWERS);
        let number = rand::random();
        let mut open = asked.open();
        if open.len() >= MOST_QUESTIONS {
            return None;
        }
        open.insert(number, sender);
        drop(open);
        Some(Self { asked, number, replies })
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.asked.open().remove(&self.number);
    }
}

/// How the other nodes are asked.
pub(super) struct Asking {
    nodes: Nodes,
    store: Store,
}

impl Asking {
    pub(super) fn new(nodes: Nodes, store: Store) -> Self {
        Self { nodes, store }
    }

    async fn ask_others(&self, question: NodeQuestion) -> Replies {
        let mut silent = self.store.node_names().await.unwrap_or_else(|error| {
            warn!(error = &error as &dyn std::error::Error, "could not read which nodes there are");
            Vec::new()
        });
        silent.retain(|node| **node != *self.nodes.name());
        let mut replies = Vec::new();
        if silent.is_empty() || !self.nodes.can_talk() {
            return Replies { replies, silent };
        }
        let Some(mut open) = Question::new(&self.nodes.asked) else { return Replies { replies, silent } };
        let _ = self.nodes.words.send(Word::Asks { number: open.number, question });
        let until = Instant::now() + PATIENCE;
        while !silent.is_empty()
            && let Ok(Some(reply)) = timeout_at(until, open.replies.recv()).await
        {
            // A word may come by two ways.
            if let Some(at) = silent.iter().position(|node| *node == reply.node) {
                silent.remove(at);
                replies.push(reply);
            }
        }
        Replies { replies, silent }
    }
}

impl OtherNodes for Asking {
    fn ask(&self, question: NodeQuestion) -> Pin<Box<dyn Future<Output = Replies> + Send + '_>> {
        Box::pin(self.ask_others(question))
    }
}
