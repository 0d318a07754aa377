//! From shelves to the snapshot that requests see. Parts that no change touched are shared.

use std::sync::Arc;

use super::Hold;
use super::tokens::TokenChanges;
use crate::names::ObjectRef;
use crate::routing::Table;
use crate::snapshot::{
    Globs, Kind, KindSet, Map, Policy, Refusal, ServedKey, ServedName, Serving, Visibility,
    WorkerEndpoint,
};
use crate::sync::shelf::Rejected;

/// The condition's reason of what a data plane does not accept.
const REASON: &str = "RejectedByDataPlane";

impl Hold {
    /// Rebuilds the parts of these kinds. Tokens are changed shard by shard.
    pub(super) fn look_again(&mut self, changed: KindSet, tokens: TokenChanges) {
        if changed.contains(Kind::Upstream) {
            self.look_at_upstreams();
        }
        if changed.contains(Kind::Credential) {
            let held = self.shelves.credentials.iter();
            self.view.credentials =
                Arc::new(held.map(|(k, _, v)| (k.clone(), v.clone())).collect());
        }
        if changed.contains(Kind::ServedName) {
            let held = self.shelves.served_names.iter();
            let poison = self.shelves.served_names.poison().map(poisoned);
            let names = held.map(|(.., v)| Arc::clone(v)).chain(poison);
            self.view.table = Arc::new(Table::build(names));
        }
        self.apply_tokens(tokens);
        if changed.contains(Kind::Policy) {
            self.view.policy = self.policy();
        }
        if changed.contains(Kind::Pool) {
            let held = self.shelves.pools.iter();
            self.view.pools = Arc::new(held.map(|(k, _, v)| (k.clone(), v.clone())).collect());
        }
        if changed.contains(Kind::Endpoint) {
            self.view.workers = self.workers();
        }
        if changed.contains(Kind::Upstream) || changed.contains(Kind::Pool) {
            let upstreams = self.shelves.upstreams.poison();
            let refused = upstreams.chain(self.shelves.pools.poison());
            let refused = refused.map(|(object, r)| (object, refusal(r)));
            self.view.rejected = Arc::new(refused.collect::<Map<ObjectRef, Refusal>>());
        }
        self.view.mark = self.mark.to_string().into();
    }

    /// Rebuilds everything.
    pub(in crate::sync) fn look_at_all(&mut self) {
        self.look_again(Kind::ALL.into_iter().collect(), TokenChanges::default());
        self.rebuild_tokens();
    }

    fn look_at_upstreams(&mut self) {
        let shelf = &self.shelves.upstreams;
        self.view.upstreams = Arc::new(
            shelf
                .iter()
                .map(|(k, _, v)| (k.clone(), v.clone()))
                .collect(),
        );
    }

    /// The workers by pool. One that was not accepted is not called.
    fn workers(&self) -> Arc<Map<ObjectRef, Arc<[Arc<WorkerEndpoint>]>>> {
        let mut pools: Map<ObjectRef, Vec<Arc<WorkerEndpoint>>> = Map::default();
        for (id, _, worker) in self.shelves.endpoints.iter() {
            pools
                .entry(id.pool.clone())
                .or_default()
                .push(worker.clone());
        }
        for workers in pools.values_mut() {
            workers.sort_by(|a, b| a.id.cmp(&b.id));
        }
        Arc::new(pools.into_iter().map(|(k, v)| (k, v.into())).collect())
    }

    fn policy(&self) -> Arc<Policy> {
        let shelf = &self.shelves.policy;
        match (shelf.get(&()), shelf.poison().next()) {
            (Some(policy), _) => Arc::clone(policy),
            // A rule that cannot be read must not become no rule.
            (None, Some(_)) => Arc::new(Policy {
                allowed_models: Some(Globs::new(std::iter::empty::<&str>())),
                ..Policy::default()
            }),
            (None, None) => Arc::default(),
        }
    }
}

fn refusal(rejected: &Rejected) -> Refusal {
    Refusal {
        reason: REASON.into(),
        message: Arc::clone(&rejected.text),
        unsupported: true,
    }
}

/// A name whose resource was not accepted: it still matches, and answers its own error.
fn poisoned((key, rejected): (ServedKey, &Rejected)) -> Arc<ServedName> {
    Arc::new(ServedName {
        key,
        // The body that would say whose it is could not be read.
        owner: ObjectRef::alias("unknown", "unknown"),
        created: 0,
        visibility: Visibility::Internal,
        serving: Serving::Refused(refusal(rejected)),
        max_output_tokens: None,
        defaults: None,
    })
}
