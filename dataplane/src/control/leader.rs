//! Who leads, by what controllers announce.
//!
//! A controller that lags may announce a leader that was: the word of an older epoch counts for
//! nothing, as long as the leader of the newer one can be reached. Epochs begin anew when
//! somebody deletes the Lease, so a leader that nobody could reach for a minute is forgotten.

use std::time::Duration;

use bodhi_proto::sync::Leader;
use tokio::time::Instant;

/// A leader that could not be reached for this long gives way to one of an older epoch.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is believed of the leader.
#[derive(Debug, Default)]
pub(super) struct Lead {
    believed: Option<Leader>,
    /// The last one announced that was not believed.
    doubted: Option<Leader>,
    unreachable: Option<Instant>,
}

impl Lead {
    /// Takes in an announcement; whether it changed what is believed.
    pub(super) fn heard(&mut self, leader: Leader) -> bool {
        match &self.believed {
            Some(believed) if leader.epoch < believed.epoch => {
                self.doubted = Some(leader);
                false
            }
            Some(believed) if leader == *believed => false,
            _ => {
                *self = Self {
                    believed: Some(leader),
                    ..Self::default()
                };
                true
            }
        }
    }

    pub(super) fn leader(&self) -> Option<&Leader> {
        self.believed.as_ref()
    }

    /// It answers.
    pub(super) fn reached(&mut self) {
        self.unreachable = None;
    }

    /// It could not be reached; whether that changed what is believed.
    pub(super) fn unreachable(&mut self, now: Instant) -> bool {
        let since = *self.unreachable.get_or_insert(now);
        if now.duration_since(since) < PATIENCE {
            return false;
        }
        match self.doubted.take() {
            Some(doubted) => {
                *self = Self {
                    believed: Some(doubted),
                    ..Self::default()
                };
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(controller: &str, epoch: u64) -> Leader {
        Leader {
            controller: controller.to_owned(),
            address: format!("{controller}:1138"),
            epoch,
        }
    }

    #[test]
    fn an_older_epoch_is_not_believed() {
        let mut lead = Lead::default();
        assert!(lead.heard(leader("a", 4)));
        assert!(!lead.heard(leader("a", 4)));
        assert!(!lead.heard(leader("b", 3)));
        assert_eq!(lead.leader(), Some(&leader("a", 4)));
        assert!(lead.heard(leader("b", 5)));
        assert!(!lead.heard(leader("a", 4)));
    }

    /// A pod that came back under its name has another address.
    #[test]
    fn the_latest_word_of_an_epoch_counts() {
        let mut lead = Lead::default();
        lead.heard(leader("a", 4));
        let moved = Leader {
            address: "elsewhere:1".into(),
            ..leader("a", 4)
        };
        assert!(lead.heard(moved.clone()));
        assert_eq!(lead.leader(), Some(&moved));
    }

    #[test]
    fn a_leader_out_of_reach_gives_way_after_a_minute() {
        let (mut lead, now) = (Lead::default(), Instant::now());
        lead.heard(leader("a", 40));
        assert!(!lead.unreachable(now));
        assert!(!lead.unreachable(now + PATIENCE), "there is no other");
        lead.heard(leader("b", 1));
        lead.reached();
        assert!(!lead.unreachable(now + PATIENCE));
        assert!(!lead.unreachable(now + PATIENCE + PATIENCE / 2));
        assert!(lead.unreachable(now + PATIENCE * 2));
        assert_eq!(lead.leader(), Some(&leader("b", 1)));
    }
}
