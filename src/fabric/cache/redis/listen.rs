//! Hearing what is said on a channel, across outages.

use futures_util::StreamExt as _;
use redis::aio::PubSub;
use tokio::sync::{broadcast, watch};

use super::{
    link::{Standing, within},
    target::{CONNECT, Target},
};
use crate::cache::{News, UNHEARD};

/// Listens until nobody wants to hear it any more, or the cache is dropped.
pub(super) fn start(
    target: Target,
    link: watch::Receiver<Option<Standing>>,
    channel: &'static str,
) -> broadcast::Receiver<News> {
    let (sender, receiver) = broadcast::channel(UNHEARD);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = listen(&target, link, channel, &sender) => {}
        }
    });
    receiver
}

async fn listen(
    target: &Target,
    mut link: watch::Receiver<Option<Standing>>,
    channel: &'static str,
    sender: &broadcast::Sender<News>,
) {
    loop {
        // Only while calls are answered: then somebody else finds out when they aren't.
        if link.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let subscribed = within(CONNECT, async {
            let mut listening = target.listen().await?;
            listening.subscribe(channel).await?;
            Ok(listening)
        });
        if let Ok(listening) = subscribed.await {
            // What was said before, or since it broke, was not heard.
            let _ = sender.send(News::Missed);
            hear(listening, &mut link, sender).await;
            let _ = sender.send(News::Missed);
        }
        tokio::time::sleep(super::link::FIRST).await;
    }
}

/// Returns when the connection breaks, or is likely to have.
async fn hear(listening: PubSub, link: &mut watch::Receiver<Option<Standing>>, sender: &broadcast::Sender<News>) {
    let mut said = listening.into_on_message();
    loop {
        tokio::select! {
            word = said.next() => match word.map(|word| word.get_payload::<String>()) {
                Some(Ok(word)) => {
                    let _ = sender.send(News::Said(word.into()));
                }
                Some(Err(_)) => {}
                None => return,
            },
            lost = link.wait_for(Option::is_none) => {
                let _ = lost;
                return;
            }
        }
    }
}
