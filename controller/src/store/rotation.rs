//! Rotation of master keys, over any store.
//!
//! First another key seals, then every stored key is sealed anew, in the background, each in a
//! transaction of its own; then the old one may be retired. A ring that is ours gets its new key
//! here. One that the operator provides gets it from the operator, on every controller, before any
//! of them seals with it: else the others could not read what it seals.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use zeroize::Zeroizing;

use super::seal::{Keys, RingError, RingFile};
use super::{Actor, AuditAction, AuditEvent, ResealOutcome, Sealing, Store, StoreError};

/// How soon a store that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// What rotates. Shared by the admin API and the start of the program.
pub struct Rotation {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    sealing_anew: AtomicBool,
}

/// The master keys and what they seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterKeys {
    /// The id of the one that seals; `None` before the first key was stored.
    pub seals: Option<String>,
    /// Those of the ring, oldest first, then those that are missing there.
    pub keys: Vec<MasterKey>,
    /// How many stored keys another one than the present one seals: what is left to do.
    pub outdated: u64,
    /// An id for the next one.
    pub next: String,
    /// Where the ring is kept.
    pub file: Option<PathBuf>,
}

/// A master key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// Its id.
    pub id: String,
    /// Whether the ring holds it.
    pub held: bool,
    /// How many stored keys it seals.
    pub sealed: u64,
}

/// How far a rotation came at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// This one seals now, and what others sealed is being sealed anew.
    Begun(String),
    /// The operator's ring holds no newer key than the one that seals: one has to be added first.
    NeedsKey,
}

/// What became of a master key that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retired {
    /// It is out of the ring.
    Removed,
    /// It is not needed any more; the operator may take it out of the ring.
    Unneeded,
}

/// Why master keys were not rotated or retired.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The system.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// It seals.
    #[error("master key '{0}' seals stored keys: run 'bodhi master-key rotate' first")]
    Seals(String),
    /// It sealed what was not sealed anew yet.
    #[error(
        "master key '{0}' still seals {1} stored keys: they are sealed anew by \
         'bodhi master-key rotate'"
    )]
    Needed(String, u64),
    /// Nobody knows it.
    #[error("there is no master key '{0}'")]
    Unknown(String),
}

impl Rotation {
    /// Over a store and the ring that it uses.
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keys>) -> Arc<Self> {
        Arc::new(Self {
            store,
            keys,
            sealing_anew: AtomicBool::new(false),
        })
    }

    /// Goes on with a rotation that an end of the program broke off, on this runtime.
    pub fn resume(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                match this.store.sealing().await {
                    Ok(sealing) if sealing.outdated() == 0 => return,
                    Ok(_) => return this.seal_anew(),
                    Err(StoreError::Unavailable(_)) => tokio::time::sleep(RETRY).await,
                    Err(error) => {
                        return tracing::error!(%error, "what seals stored keys cannot be read");
                    }
                }
            }
        });
    }

    /// The master keys and what they seal.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn state(&self) -> Result<MasterKeys, RotationError> {
        Ok(self.described(self.store.sealing().await?))
    }

    fn described(&self, sealing: Sealing) -> MasterKeys {
        let ring = self.keys.ring();
        let outdated = sealing.outdated();
        let mut sealed: BTreeMap<String, u64> = sealing.sealed;
        let mut keys: Vec<MasterKey> = ring
            .ids()
            .map(|id| MasterKey {
                sealed: sealed.remove(id).unwrap_or(0),
                id: id.to_owned(),
                held: true,
            })
            .collect();
        keys.extend(sealed.into_iter().map(|(id, sealed)| MasterKey {
            id,
            held: false,
            sealed,
        }));
        MasterKeys {
            seals: sealing.seals,
            keys,
            outdated,
            next: ring.next_id(),
            file: match self.keys.file() {
                Some(RingFile::Own(path) | RingFile::Given(path)) => Some(path.clone()),
                None => None,
            },
        }
    }

    /// Lets the newest master key seal, adding one to a ring of our own if the newest does already.
    ///
    /// # Errors
    /// The ring cannot be read or written, or the store does not answer. Then nothing has changed,
    /// but that a key may have been added, which the next attempt takes.
    pub async fn rotate(self: &Arc<Self>, by: Actor, now: i64) -> Result<Rotated, RotationError> {
        let ring = self.keys.read_again()?;
        let sealing = self.store.sealing().await?;
        let id = match sealing.seals.as_deref() == Some(ring.newest()) {
            false => ring.newest().to_owned(),
            true if sealing.outdated() > 0 => ring.newest().to_owned(),
            true => match self.keys.file() {
                Some(RingFile::Own(_)) => {
                    let mut random = Zeroizing::new([0; 32]);
                    getrandom::fill(random.as_mut_slice()).map_err(RotationError::Random)?;
                    self.keys.add(&random)?
                }
                _ => return Ok(Rotated::NeedsKey),
            },
        };
        self.store.seal_with(id.clone(), by, now).await?;
        self.seal_anew();
        Ok(Rotated::Begun(id))
    }

    /// Gives up a master key that seals nothing.
    ///
    /// # Errors
    /// It seals, the ring cannot be written, or the store does not answer.
    pub async fn retire(&self, id: &str, by: Actor, now: i64) -> Result<Retired, RotationError> {
        let state = self.state().await?;
        if state.seals.as_deref() == Some(id) {
            return Err(RotationError::Seals(id.to_owned()));
        }
        let key = state.keys.into_iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| RotationError::Unknown(id.to_owned()))?;
        if key.sealed > 0 {
            return Err(RotationError::Needed(key.id, key.sealed));
        }
        let Some(RingFile::Own(_)) = self.keys.file() else {
            return Ok(Retired::Unneeded);
        };
        let event = AuditEvent {
            action: AuditAction::MasterKeyRetire,
            object: format!("MasterKey/{id}"),
        };
        self.store.append_audit(event, by, now).await?;
        self.keys.remove(id)?;
        Ok(Retired::Removed)
    }

    /// Seals anew what older master keys sealed, in the background; once at a time.
    fn seal_anew(self: &Arc<Self>) {
        if self.sealing_anew.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let sealed = seal_all(&*this.store).await;
            this.sealing_anew.store(false, Ordering::Release);
            tracing::info!(sealed, "stored keys are sealed by the present master key");
        });
    }
}

/// Goes through all stored keys; answers how many were sealed anew.
async fn seal_all(store: &dyn Store) -> u64 {
    let (mut last, mut sealed) = (None, 0);
    loop {
        match store.reseal_next(last.clone()).await {
            Ok(None) => return sealed,
            Ok(Some(key)) => {
                match key.outcome {
                    ResealOutcome::Done => sealed += 1,
                    ResealOutcome::Current => {}
                    ResealOutcome::Unreadable(error) => {
                        tracing::error!(uid = %key.uid, %error, "a stored key cannot be read");
                    }
                }
                last = Some(key.uid);
            }
            Err(StoreError::Unavailable(_)) => tokio::time::sleep(RETRY).await,
            Err(error) => {
                tracing::error!(%error, "stored keys cannot be sealed anew");
                return sealed;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SqliteStore;
    use crate::store::conformance::stored_key;

    struct Bench {
        dir: tempfile::TempDir,
        keys: Arc<Keys>,
        store: Arc<dyn Store>,
        rotation: Arc<Rotation>,
    }

    fn open(dir: tempfile::TempDir, file: RingFile) -> Bench {
        let keys = Arc::new(Keys::load(file, &Zeroizing::new([7; 32])).unwrap());
        let store = SqliteStore::open(&dir.path().join("store.db"), Arc::clone(&keys)).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        Bench {
            rotation: Rotation::new(Arc::clone(&store), Arc::clone(&keys)),
            dir,
            keys,
            store,
        }
    }

    fn own() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let file = RingFile::Own(dir.path().join("master.key"));
        open(dir, file)
    }

    fn actor() -> Actor {
        Actor::program("test")
    }

    async fn all_sealed(bench: &Bench) -> MasterKeys {
        loop {
            let state = bench.rotation.state().await.unwrap();
            if state.outdated == 0 {
                return state;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_ring_of_ours_gets_a_key_that_takes_over_and_the_old_one_goes() {
        let bench = own();
        for n in 0..3 {
            let key = stored_key(&format!("uid-{n}"), "sk-canary");
            bench.store.set_key(key, actor(), 1).await.unwrap();
        }
        let needed = bench.rotation.retire("k1", actor(), 2).await;
        assert!(matches!(needed, Err(RotationError::Seals(_))), "{needed:?}");
        let rotated = bench.rotation.rotate(actor(), 2).await.unwrap();
        assert_eq!(rotated, Rotated::Begun("k2".into()));
        let state = all_sealed(&bench).await;
        assert_eq!(state.seals.as_deref(), Some("k2"));
        let sealed: Vec<_> = state
            .keys
            .iter()
            .map(|k| (&*k.id, k.sealed, k.held))
            .collect();
        assert_eq!(sealed, [("k1", 0, true), ("k2", 3, true)]);

        let retired = bench.rotation.retire("k1", actor(), 3).await.unwrap();
        assert_eq!(retired, Retired::Removed);
        assert_eq!(bench.keys.ring().ids().collect::<Vec<_>>(), ["k2"]);
        let unknown = bench.rotation.retire("k1", actor(), 3).await;
        assert!(
            matches!(unknown, Err(RotationError::Unknown(_))),
            "{unknown:?}"
        );
        let key = stored_key("uid-1", "sk-canary");
        assert_eq!(bench.store.key(key.uid.clone()).await.unwrap(), Some(key));
        let trail = bench.store.audit_page(None, 2).await.unwrap();
        let actions: Vec<_> = trail.iter().map(|row| &*row.action).collect();
        assert_eq!(actions, ["master_key.retire", "master_key.rotate"]);
    }

    #[tokio::test]
    async fn a_rotation_that_was_broken_off_goes_on() {
        let bench = own();
        for n in 0..3 {
            let key = stored_key(&format!("uid-{n}"), "sk-canary");
            bench.store.set_key(key, actor(), 1).await.unwrap();
        }
        // Killed after the first of three.
        let id = bench.keys.add(&Zeroizing::new([8; 32])).unwrap();
        bench.store.seal_with(id, actor(), 1).await.unwrap();
        bench.store.reseal_next(None).await.unwrap();
        assert_eq!(bench.rotation.state().await.unwrap().outdated, 2);
        let needed = bench.rotation.retire("k1", actor(), 2).await;
        assert!(
            matches!(needed, Err(RotationError::Needed(_, 2))),
            "{needed:?}"
        );
        bench.rotation.resume();
        assert_eq!(all_sealed(&bench).await.seals.as_deref(), Some("k2"));
        // Asked for again meanwhile, it would go on as well, and add no third key.
        assert_eq!(bench.keys.ring().ids().count(), 2);
    }

    #[tokio::test]
    async fn a_ring_of_the_operators_waits_for_the_operators_key() {
        let bench = own();
        let Bench {
            dir,
            keys,
            store,
            rotation,
        } = bench;
        drop((store, rotation, keys));
        let path = dir.path().join("master.key");
        let bench = open(dir, RingFile::Given(path.clone()));
        bench
            .store
            .set_key(stored_key("uid-1", "sk"), actor(), 1)
            .await
            .unwrap();
        let waits = bench.rotation.rotate(actor(), 1).await.unwrap();
        assert_eq!(waits, Rotated::NeedsKey);
        // What the operator does.
        let line = "\nk2 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
        let text = std::fs::read_to_string(&path).unwrap() + line;
        std::fs::write(&path, &text).unwrap();
        let begun = bench.rotation.rotate(actor(), 2).await.unwrap();
        assert_eq!(begun, Rotated::Begun("k2".into()));
        all_sealed(&bench).await;
        let retired = bench.rotation.retire("k1", actor(), 3).await.unwrap();
        assert_eq!(retired, Retired::Unneeded);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert!(bench.dir.path().exists());
    }
}
