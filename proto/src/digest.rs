//! What two sides compare to learn whether they hold the same: a version per
//! resource, and sums over versions per kind.
//!
//! A sum does not depend on order and is kept up to date by adding and subtracting, so
//! neither side ever walks its resources. It is 128 bits wide and wraps; each term is
//! a hash that nobody outside can choose, and a collision costs a late repair at worst.

use sha2::{Digest as _, Sha256};

use crate::snapshot::Kind;

/// First 8 bytes, little-endian, of SHA-256(kind, name, body).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u64);

impl Version {
    /// The version of a resource with this encoded body. The name is preceded by its length,
    /// so that no part of a name can pass for a body.
    pub fn of(kind: Kind, name: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update([kind as u8]);
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(body);
        Self(first_eight(&hash.finalize()))
    }
}

fn first_eight(hash: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first)
}

/// How many buckets the resources of a kind fall into by their names.
pub const BUCKETS: usize = 256;

/// The bucket of a name.
pub fn bucket(name: &str) -> u8 {
    // The low byte of FNV-1a (Fowler, Noll, Vo), folded: cheap and the same everywhere.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 32) ^ (hash >> 16) ^ (hash >> 8)) as u8
}

/// One term of a sum: 128 bits of SHA-256(name, version).
fn term(name: &str, version: Version) -> u128 {
    let mut hash = Sha256::new();
    hash.update(version.0.to_le_bytes());
    hash.update(name.as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    u128::from_le_bytes(first)
}

/// A set of buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BucketSet([u64; BUCKETS / 64]);

impl BucketSet {
    /// Every bucket.
    pub const ALL: Self = Self([u64::MAX; BUCKETS / 64]);

    /// Puts a bucket in.
    pub fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket) / 64] |= 1 << (bucket % 64);
    }

    /// Whether a bucket is in it.
    pub fn contains(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket) / 64] & (1 << (bucket % 64)) != 0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is in either.
    pub fn union(self, other: Self) -> Self {
        let mut both = self;
        for (word, more) in both.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        both
    }

    /// 32 bytes, the lowest bit of the first being bucket 0.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (eight, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`BucketSet::to_bytes`].
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut set = Self::default();
        for (word, eight) in set.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = first_eight(eight);
        }
        set
    }
}

/// The sums of one kind: in all, and of each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums(Box<[u128; BUCKETS]>);

impl Default for Sums {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Sums {
    /// Takes over the sums of all buckets.
    pub fn from_buckets(sums: [u128; BUCKETS]) -> Self {
        Self(Box::new(sums))
    }

    /// Counts a resource in.
    pub fn add(&mut self, name: &str, version: Version) {
        let sum = &mut self.0[usize::from(bucket(name))];
        *sum = sum.wrapping_add(term(name, version));
    }

    /// Counts a resource out.
    pub fn subtract(&mut self, name: &str, version: Version) {
        let sum = &mut self.0[usize::from(bucket(name))];
        *sum = sum.wrapping_sub(term(name, version));
    }

    /// The sum over everything.
    pub fn total(&self) -> u128 {
        self.0.iter().fold(0, |sum, b| sum.wrapping_add(*b))
    }

    /// The sum of each bucket.
    pub fn buckets(&self) -> &[u128; BUCKETS] {
        &self.0
    }

    /// The buckets in which the two differ.
    pub fn differing(&self, other: &Self) -> BucketSet {
        let mut set = BucketSet::default();
        for (bucket, (own, others)) in (0..=u8::MAX).zip(self.0.iter().zip(other.0.iter())) {
            if own != others {
                set.insert(bucket);
            }
        }
        set
    }
}

/// The totals of some kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests([Option<u128>; Kind::ALL.len()]);

impl Digests {
    /// The total of a kind, if it is among them.
    pub fn get(&self, kind: Kind) -> Option<u128> {
        self.0[kind.index()]
    }

    /// Puts a total in.
    pub fn set(&mut self, kind: Kind, total: u128) {
        self.0[kind.index()] = Some(total);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The totals in the order of the kinds' numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u128)> {
        Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, self.get(kind)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_tell_kind_name_and_body_apart() {
        let of = |kind, name, body: &str| Version::of(kind, name, body.as_bytes());
        let one = of(Kind::Upstream, "ab", "c");
        assert_eq!(one, of(Kind::Upstream, "ab", "c"));
        assert_ne!(one, of(Kind::Upstream, "a", "bc"));
        assert_ne!(one, of(Kind::Credential, "ab", "c"));
    }

    #[test]
    fn names_spread_over_the_buckets() {
        let mut counts = [0_u32; BUCKETS];
        for n in 0..25_600 {
            counts[usize::from(bucket(&format!("ApiModel/bodhi/model-{n}")))] += 1;
        }
        assert!(counts.iter().all(|c| (40..=180).contains(c)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_sum_depends_on_what_is_in_it_and_on_nothing_else(
            names in prop::collection::hash_map("[a-z]{1,8}", any::<u64>(), 0..20),
            extra in "[A-Z]{1,8}", version: u64,
        ) {
            let mut forward = Sums::default();
            for (name, version) in &names {
                forward.add(name, Version(*version));
            }
            let mut backward = Sums::default();
            backward.add(&extra, Version(version));
            let mut sorted: Vec<_> = names.iter().collect();
            sorted.sort();
            for (name, version) in sorted {
                backward.add(name, Version(*version));
            }
            let differing = forward.differing(&backward);
            prop_assert!(differing.contains(bucket(&extra)));
            prop_assert_ne!(forward.total(), backward.total());
            backward.subtract(&extra, Version(version));
            prop_assert_eq!(forward.total(), backward.total());
            prop_assert!(forward.differing(&backward).is_empty());
        }

        #[test]
        fn bucket_sets_round_trip(bytes: [u8; 32]) {
            prop_assert_eq!(BucketSet::from_bytes(bytes).to_bytes(), bytes);
        }
    }
}
