//! What the store holds, followed by a task of its own: a database that is away holds back tokens
//! and keys, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::store::{Changes, Store};

/// How soon the store is asked again when it does not answer.
const RETRY: Duration = Duration::from_secs(2);

/// What was read, in order.
#[derive(Debug)]
pub(super) enum Stored {
    /// Everything there is: at first, and when the incarnation was raised.
    All(Changes),
    /// What has changed since the reading before.
    Changed(Changes),
}

/// Reads everything, then what changes, until the receiver is dropped.
pub(super) fn follow(store: Arc<dyn Store>) -> mpsc::Receiver<Stored> {
    let (tell, told) = mpsc::channel(1);
    tokio::spawn(run(store, tell));
    told
}

async fn run(store: Arc<dyn Store>, tell: mpsc::Sender<Stored>) {
    let mut watch = store.watch();
    let mut known: Option<(u64, u64)> = None;
    loop {
        // Before the reading: what is committed during it wakes once more.
        watch.borrow_and_update();
        let since = known.map_or(0, |(_, seq)| seq);
        let mut changes = read(&*store, since).await;
        let raised = known.is_some_and(|(incarnation, _)| changes.incarnation > incarnation);
        if raised {
            tracing::warn!(
                incarnation = changes.incarnation,
                "the store's incarnation was raised: everything is read again"
            );
            // Nothing that was known before a restore need be so.
            changes = read(&*store, 0).await;
        }
        let all = raised || known.is_none();
        // A store that has lost changes says less than was known, until its incarnation is raised.
        let seq = if all {
            changes.seq
        } else {
            changes.seq.max(since)
        };
        known = Some((changes.incarnation, seq));
        let stored = match all {
            true => Stored::All(changes),
            false => Stored::Changed(changes),
        };
        if tell.send(stored).await.is_err() {
            return;
        }
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return },
            () = tell.closed() => return,
        }
    }
}

async fn read(store: &dyn Store, since: u64) -> Changes {
    loop {
        match store.changes_since(since).await {
            Ok(changes) => return changes,
            Err(error) => {
                tracing::error!(%error, "the store does not answer; asking again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::mint;
    use crate::store::seal::{KeyRing, Keys};
    use crate::store::{Actor, SqliteStore};
    use bodhi_proto::snapshot::Scope;
    use zeroize::Zeroizing;

    #[tokio::test]
    async fn everything_comes_first_then_changes_and_everything_again_after_a_restore() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::parse("k1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let keys = Arc::new(Keys::of(ring));
        let store = SqliteStore::open(&dir.path().join("store.db"), keys).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let actor = || Actor::program("test");
        let add = async |n: u8| {
            let (_, new) = mint(&Zeroizing::new([n; 44]), "test", "ada", Scope::User);
            store.create_token(new, actor(), 1).await.unwrap();
        };
        add(1).await;
        let mut told = follow(Arc::clone(&store));
        let first = told.recv().await.unwrap();
        assert!(
            matches!(&first, Stored::All(c) if c.tokens.len() == 1),
            "{first:?}"
        );
        add(2).await;
        let next = told.recv().await.unwrap();
        assert!(
            matches!(&next, Stored::Changed(c) if c.tokens.len() == 1 && c.seq == 2),
            "{next:?}"
        );
        store.raise_incarnation(actor(), 1).await.unwrap();
        let again = told.recv().await.unwrap();
        assert!(
            matches!(&again, Stored::All(c) if c.tokens.len() == 2 && c.incarnation == 2),
            "{again:?}"
        );
    }
}
