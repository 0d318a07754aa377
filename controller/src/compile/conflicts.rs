//! Who holds a name.
//!
//! Within a family, served names, exposed ids and prefixes are one space over both kinds and
//! all namespaces. A namespace claims only what the operator grants it. Within a namespace an
//! Alias goes before an ApiModel, then the oldest object, then the name. Between namespaces a
//! claim equal to or inside another's is lost by the shorter grant, else by the younger
//! object. Whoever loses its prefix loses all its names: they lie in the winner's.
//!
//! Everything is settled from the complete set, so neither a restart nor the order of events
//! can flip a winner.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::provider::Family;
use bodhi_proto::snapshot::{Pattern, Route, ServedKey};

use super::problem::Problem;
use super::{NameGrant, Settings};
use crate::api::Reason;

/// A name or prefix that an object asks for, and what it would serve there.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) key: ServedKey,
    pub(super) owner: ObjectRef,
    /// Unix seconds.
    pub(super) created: Option<i64>,
    /// Where it leads. Empty for a name whose object cannot serve.
    pub(super) routes: Vec<Route>,
    /// A prefix without `forwardAll`: it is reserved, not served.
    pub(super) reserved: bool,
}

impl Claim {
    pub(super) fn is_served(&self) -> bool {
        !self.reserved
    }

    fn is_prefix(&self) -> bool {
        matches!(self.key.pattern, Pattern::Prefix(_))
    }

    fn text(&self) -> &str {
        match &self.key.pattern {
            Pattern::Exact(name) => name.as_str(),
            Pattern::Prefix(prefix) => prefix.as_str(),
        }
    }

    fn age(&self) -> i64 {
        self.created.unwrap_or(i64::MAX)
    }
}

/// Why a claim was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// The operator does not grant the name to the namespace.
    NotGranted,
    /// Another object holds it, or what it lies in, or what lies in it.
    To { winner: ObjectRef, held: ServedKey },
    /// The object lost its prefix to this one.
    WithPrefix { winner: ObjectRef },
}

/// The lost claims; all others are won.
pub(super) struct Outcome {
    lost: HashMap<ObjectRef, HashMap<ServedKey, Loss>>,
}

impl Outcome {
    pub(super) fn lost(&self, claim: &Claim) -> Option<&Loss> {
        self.lost.get(&claim.owner)?.get(&claim.key)
    }

    pub(super) fn won(&self, claim: &Claim) -> bool {
        self.lost(claim).is_none()
    }

    fn lose(&mut self, claim: &Claim, why: Loss) {
        let of_owner = self.lost.entry(claim.owner.clone()).or_default();
        of_owner.entry(claim.key.clone()).or_insert(why);
    }
}

/// Settles all claims.
pub(super) fn settle(claims: Vec<&Claim>, settings: &Settings) -> Outcome {
    let mut outcome = Outcome {
        lost: HashMap::new(),
    };
    let mut standing: Vec<(&Claim, usize)> = Vec::with_capacity(claims.len());
    for claim in claims {
        match grant(claim, settings) {
            Some(length) => standing.push((claim, length)),
            None => outcome.lose(claim, Loss::NotGranted),
        }
    }
    // An object that loses its prefix gives up its other names, which may free them for
    // others: settle again without it. Each round removes an object, so this ends.
    loop {
        let losses = contest(&standing);
        let beaten: BTreeMap<&ObjectRef, ObjectRef> = losses
            .iter()
            .filter(|(claim, _)| claim.is_prefix())
            .filter_map(|(claim, why)| match why {
                Loss::To { winner, .. } => Some((&claim.owner, winner.clone())),
                _ => None,
            })
            .collect();
        if beaten.is_empty() {
            for (claim, why) in losses {
                outcome.lose(claim, why);
            }
            return outcome;
        }
        for (claim, why) in losses {
            if claim.is_prefix() {
                outcome.lose(claim, why);
            }
        }
        standing.retain(|(claim, _)| match beaten.get(&claim.owner) {
            None => true,
            Some(winner) => {
                let winner = winner.clone();
                outcome.lose(claim, Loss::WithPrefix { winner });
                false
            }
        });
    }
}

/// The length of the longest grant that covers a claim.
fn grant(claim: &Claim, settings: &Settings) -> Option<usize> {
    let namespace = &*claim.owner.namespace;
    let covers = |grant: &NameGrant| {
        // Every name under a prefix must be granted, so the grant must be open-ended.
        let open = !claim.is_prefix() || grant.glob.ends_with('*');
        open && grant.matches(claim.text())
    };
    let own: Vec<&NameGrant> = settings
        .names
        .iter()
        .filter(|grant| *grant.namespace == *namespace)
        .collect();
    if !own.is_empty() {
        let covering = own.into_iter().filter(|grant| covers(grant));
        return covering.map(|grant| grant.glob.len()).max();
    }
    if *namespace == *settings.release_namespace {
        return Some("*".len());
    }
    let inside = claim
        .text()
        .strip_prefix(namespace)
        .is_some_and(|rest| rest.starts_with('/'));
    inside.then_some(namespace.len() + "/*".len())
}

/// One round: who loses to whom.
fn contest<'c>(standing: &[(&'c Claim, usize)]) -> Vec<(&'c Claim, Loss)> {
    let mut losses = Vec::new();
    let mut first: BTreeMap<(&str, &ServedKey), (&Claim, usize)> = BTreeMap::new();
    let mut ordered = standing.to_vec();
    ordered.sort_by(|(a, _), (b, _)| within(a).cmp(&within(b)));
    for (claim, grant) in ordered {
        match first.entry((&claim.owner.namespace, &claim.key)) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert((claim, grant));
            }
            std::collections::btree_map::Entry::Occupied(winner) => {
                losses.push((claim, lost_to(winner.get().0)));
            }
        }
    }
    let namespaces: BTreeSet<&str> = first.keys().map(|(namespace, _)| *namespace).collect();
    if namespaces.len() > 1 {
        let mut between: Vec<(&Claim, usize)> = first.into_values().collect();
        between.sort_by_key(|(claim, grant)| {
            let owner = (&claim.owner.namespace, claim.owner.kind, &claim.owner.name);
            (Reverse(*grant), claim.age(), owner, &claim.key)
        });
        let mut held = Held::default();
        for (claim, _) in between {
            match held.in_the_way_of(claim) {
                Some(winner) => losses.push((claim, lost_to(winner))),
                None => held.take(claim),
            }
        }
    }
    losses
}

/// The order within a namespace: an Alias, then the oldest, then the name.
fn within(claim: &Claim) -> (bool, i64, &ObjectRef) {
    let api_model = claim.owner.kind == ObjectKind::ApiModel;
    (api_model, claim.age(), &claim.owner)
}

fn lost_to(winner: &Claim) -> Loss {
    Loss::To {
        winner: winner.owner.clone(),
        held: winner.key.clone(),
    }
}

/// Claims that were granted between namespaces so far.
#[derive(Default)]
struct Held<'c> {
    /// By family, text and whether it is a prefix.
    by_text: BTreeMap<(Family, &'c str, bool), Vec<&'c Claim>>,
    /// Lengths that occur among prefixes.
    lengths: BTreeSet<usize>,
}

impl<'c> Held<'c> {
    fn take(&mut self, claim: &'c Claim) {
        if claim.is_prefix() {
            self.lengths.insert(claim.text().len());
        }
        let place = (claim.key.family, claim.text(), claim.is_prefix());
        self.by_text.entry(place).or_default().push(claim);
    }

    /// A claim of another namespace that is equal, around or inside.
    fn in_the_way_of(&self, claim: &Claim) -> Option<&'c Claim> {
        let (family, text) = (claim.key.family, claim.text());
        let foreign = |held: &&&'c Claim| held.owner.namespace != claim.owner.namespace;
        let at = |text: &str, prefix: bool| {
            let claims = self.by_text.get(&(family, text, prefix));
            claims.into_iter().flatten().find(foreign).copied()
        };
        let lengths = self.lengths.range(..=text.len());
        let around = || {
            let mut starts = lengths.filter_map(|length| text.get(..*length));
            starts.find_map(|start| at(start, true))
        };
        let inside = || {
            let below = self.by_text.range((family, text, false)..);
            below
                .take_while(|((f, t, _), _)| *f == family && t.starts_with(text))
                .flat_map(|(_, claims)| claims)
                .find(foreign)
                .copied()
        };
        at(text, claim.is_prefix())
            .or_else(around)
            .or_else(|| claim.is_prefix().then(inside).flatten())
    }
}

/// A lost claim in words for its owner; `more` further ones were lost too.
pub(super) fn describe(claim: &Claim, why: &Loss, more: usize) -> Problem {
    let text = claim.text();
    let what = if claim.is_prefix() { "prefix" } else { "model" };
    let (reason, mut message) = match why {
        Loss::NotGranted => {
            let namespace = &claim.owner.namespace;
            (
                Reason::NameNotGranted,
                format!(
                    "namespace {namespace} may not claim the {what} {text:?}: ask the operator \
                     for --names {namespace}=GLOB"
                ),
            )
        }
        Loss::To { winner, held } => {
            let reason = match claim.is_prefix() {
                true => Reason::PrefixConflict,
                false => Reason::ModelConflict,
            };
            let through = match (&held.pattern, held == &claim.key) {
                (_, true) => String::new(),
                (Pattern::Prefix(prefix), false) => format!(" through its prefix \"{prefix}\""),
                (Pattern::Exact(name), false) => format!(" through its model \"{name}\""),
            };
            (
                reason,
                format!("{what} {text:?} belongs to {winner}{through}"),
            )
        }
        Loss::WithPrefix { winner } => (
            Reason::PrefixConflict,
            format!("its prefix belongs to {winner}, so {what} {text:?} is not served either"),
        ),
    };
    if more > 0 {
        message.push_str(&format!(" (and {more} more)"));
    }
    Problem::new(reason, message)
}
