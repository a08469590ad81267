//! One node follows for all of them.

use futures_util::future::BoxFuture;
use store::Store;

/// Does `work` while `name` is this node's to do, and from the start whenever it becomes so. It goes on until it is dropped.
pub(crate) async fn while_on_duty<'a>(store: &Store, name: &str, work: &(dyn Fn() -> BoxFuture<'a, ()> + Send + Sync)) {
    let mut changes = store.duties().changes();
    loop {
        changes.mark_unchanged();
        if store.duties().of(name).is_none() {
            // The sender is part of the store, which is here.
            let _ = changes.changed().await;
            continue;
        }
        let lost = async {
            while store.duties().of(name).is_some() {
                let _ = changes.changed().await;
            }
        };
        tokio::select! {
            () = work() => {}
            () = lost => {}
        }
    }
}
