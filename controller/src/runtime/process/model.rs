//! One model: as many workers as are wanted, with the spec that is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bodhi_proto::chat::{ModelInfo, Phase};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::WorkerEndpoint;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::worker::{self, Change, Job, Order};
use crate::compile::WorkerSpec;
use crate::runtime::plan::{Slot, plan};
use crate::runtime::{ModelState, Trouble, Wanted};

/// A worker's task as this one knows it.
struct Replica {
    spec: WorkerSpec,
    order: watch::Sender<Order>,
    leaving: bool,
    stand: Stand,
    trouble: Option<Trouble>,
}

/// How far a worker is.
enum Stand {
    Starting(Option<Phase>),
    Ready(WorkerEndpoint),
}

/// Runs until nothing is wanted and nothing is left.
pub(super) async fn run(
    object: ObjectRef,
    mut wanted: watch::Receiver<Option<Wanted>>,
    shared: Arc<Shared>,
) {
    let (tell, mut told) = mpsc::channel::<(u64, Change)>(64);
    let mut replicas: BTreeMap<u64, Replica> = BTreeMap::new();
    let mut model: Option<ModelInfo> = None;
    let mut open = true;
    loop {
        let now = wanted.borrow_and_update().clone();
        let leaving = settle(&object, now.as_ref(), &mut replicas, &shared, &tell);
        let state = state(&replicas, model.as_ref());
        let shown = (now.is_some() || !replicas.is_empty()).then_some(state);
        let version = shared.show(&object, shown);
        for replica in leaving {
            if let Some(replica) = replicas.get(&replica) {
                replica
                    .order
                    .send_replace(Order::Leave { hidden_at: version });
            }
        }
        if now.is_none() && replicas.is_empty() {
            return;
        }
        tokio::select! {
            changed = wanted.changed(), if open => {
                // The runtime was dropped: what is left is told to leave.
                open = changed.is_ok();
                if !open {
                    replicas.clear();
                    return;
                }
            }
            Some((replica, change)) = told.recv() => {
                take_in(replica, change, &mut replicas, &mut model);
            }
        }
    }
}

/// Starts and retires as planned. Answers who is to leave once that is shown.
fn settle(
    object: &ObjectRef,
    wanted: Option<&Wanted>,
    replicas: &mut BTreeMap<u64, Replica>,
    shared: &Arc<Shared>,
    tell: &mpsc::Sender<(u64, Change)>,
) -> Vec<u64> {
    let staying: Vec<(u64, Slot)> = replicas
        .iter()
        .filter(|(_, replica)| !replica.leaving)
        .map(|(id, replica)| {
            let slot = Slot {
                current: wanted.is_some_and(|wanted| wanted.worker == replica.spec),
                ready: matches!(replica.stand, Stand::Ready(_)),
            };
            (*id, slot)
        })
        .collect();
    let slots: Vec<Slot> = staying.iter().map(|(_, slot)| *slot).collect();
    let leaving = replicas.len() - slots.len();
    let (count, rollout) = match wanted {
        Some(wanted) => (wanted.replicas as usize, wanted.rollout),
        None => (0, crate::compile::Rollout::Surge),
    };
    let plan = plan(&slots, leaving, count, rollout);
    let retired: Vec<u64> = plan.retire.iter().map(|place| staying[*place].0).collect();
    for id in &retired {
        if let Some(replica) = replicas.get_mut(id) {
            replica.leaving = true;
        }
    }
    for _ in 0..plan.start {
        let Some(wanted) = wanted else { break };
        let id = shared.next_serial();
        let (order, orders) = watch::channel(Order::Serve);
        let job = Job {
            id,
            object: object.clone(),
            spec: wanted.worker.clone(),
            threads: threads(wanted),
            shared: Arc::clone(shared),
            orders,
            tell: tell.clone(),
        };
        tokio::spawn(worker::run(job));
        let replica = Replica {
            spec: wanted.worker.clone(),
            order,
            leaving: false,
            stand: Stand::Starting(None),
            trouble: None,
        };
        replicas.insert(id, replica);
    }
    retired
}

/// What one worker may use: threads of a model spin, so more of them than there are cores make
/// each slower than one would be.
fn threads(wanted: &Wanted) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    match wanted.worker.engine.threads {
        Some(threads) => threads as usize,
        None => (cores / wanted.ceiling.max(1) as usize).max(1),
    }
}

fn take_in(
    id: u64,
    change: Change,
    replicas: &mut BTreeMap<u64, Replica>,
    model: &mut Option<ModelInfo>,
) {
    let Some(replica) = replicas.get_mut(&id) else {
        return;
    };
    match change {
        Change::Starting(phase) => replica.stand = Stand::Starting(phase),
        Change::Ready { endpoint, info } => {
            replica.stand = Stand::Ready(endpoint);
            replica.trouble = None;
            if info.is_some() {
                *model = info;
            }
        }
        Change::Ended(trouble) => {
            replica.stand = Stand::Starting(None);
            replica.trouble = Some(trouble);
        }
        Change::Gone => drop(replicas.remove(&id)),
    }
}

/// What is shown of it.
fn state(replicas: &BTreeMap<u64, Replica>, model: Option<&ModelInfo>) -> ModelState {
    let staying = || replicas.values().filter(|replica| !replica.leaving);
    let ready: Vec<WorkerEndpoint> = staying()
        .filter_map(|replica| match &replica.stand {
            Stand::Ready(endpoint) => Some(endpoint.clone()),
            Stand::Starting(_) => None,
        })
        .collect();
    let phases = staying().filter_map(|replica| match &replica.stand {
        Stand::Starting(phase) => phase.clone(),
        Stand::Ready(_) => None,
    });
    let troubles = staying().filter_map(|replica| replica.trouble.clone());
    ModelState {
        replicas: u32::try_from(staying().count()).unwrap_or(u32::MAX),
        starting: phases.max_by_key(advance),
        failure: troubles.max_by_key(|trouble| trouble.times),
        model: model.cloned(),
        ready,
        ..ModelState::default()
    }
}

fn advance(phase: &Phase) -> (u8, u8) {
    match phase {
        Phase::Downloading(progress) => (0, progress.percent().unwrap_or(0)),
        Phase::Loading(progress) => (1, progress.percent().unwrap_or(0)),
        Phase::WarmingUp => (2, 0),
        Phase::Ready => (3, 0),
        Phase::Draining | Phase::Failed(_) => (0, 0),
    }
}
