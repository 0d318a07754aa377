//! Tokens as a data plane holds them: by hash, in copy-on-write shards.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::names::{ModelName, TokenId};

/// SHA-256 of a whole presented token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Hashes a presented credential, whatever its form.
    pub fn of(text: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(text).into())
    }
}

/// What a token may do. Ordered: each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Calls models.
    User,
    /// Also changes ApiModels and Aliases.
    PowerUser,
    /// Also mints tokens for others.
    Admin,
}

impl Scope {
    /// `user`, `power_user` or `admin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::PowerUser => "power_user",
            Self::Admin => "admin",
        }
    }

    /// The inverse of [`Scope::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        [Self::User, Self::PowerUser, Self::Admin]
            .into_iter()
            .find(|s| s.as_str() == word)
    }
}

/// Patterns over model names: `*` stands for any run of characters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globs(Arc<[Box<str>]>);

impl Globs {
    /// Takes patterns as they are; every text is a valid pattern.
    pub fn new<I: IntoIterator<Item = S>, S: Into<Box<str>>>(patterns: I) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }

    /// The patterns as given.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|p| &**p)
    }

    /// Whether any pattern matches the whole of `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|p| glob(p.as_bytes(), name.as_bytes()))
    }
}

/// Greedy matching with one point of return, so at most pattern × name steps.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            // One character: its continuation bytes are taken along.
            Some(b'?') => {
                p += 1;
                n += 1;
                while name.get(n).is_some_and(|b| b & 0xC0 == 0x80) {
                    n += 1;
                }
            }
            Some(b) if *b == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, at)) => {
                    retry = Some((star, at + 1));
                    (p, n) = (star, at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Most output tokens for models that match a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCap {
    /// The served name.
    pub model: ModelName,
    /// Tokens per answer.
    pub limit: NonZeroU32,
}

/// Rates of one token; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenLimits {
    /// Requests in a minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Input and output tokens in a minute.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests at the same time.
    pub concurrency: Option<NonZeroU32>,
}

/// One token, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its public identity.
    pub id: TokenId,
    /// What a presented token is compared with.
    pub hash: TokenHash,
    /// The user or ServiceAccount it was minted for; response ids belong to it.
    pub owner: Arc<str>,
    /// What it may do.
    pub scope: Scope,
    /// Unix seconds from which it is refused.
    pub expires: Option<i64>,
    /// Models it may call; `None` allows all.
    pub models: Option<Globs>,
    /// Its caps per model.
    pub output_caps: Vec<ModelCap>,
    /// Its rates.
    pub limits: TokenLimits,
}

/// Number of shards: a change copies one of them, about a hundred tokens at 100,000.
const SHARDS: usize = 1024;

/// Tokens by hash. Cloning shares every shard; a change copies the one it touches.
#[derive(Debug, Clone)]
pub struct TokenTable {
    shards: Arc<[Shard]>,
}

type Shard = Arc<HashSet<ByHash, foldhash::fast::RandomState>>;

/// A token as its hash alone tells it apart, so that the table holds no hash twice.
#[derive(Debug, Clone)]
struct ByHash(Arc<Token>);

impl PartialEq for ByHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for ByHash {}

impl Hash for ByHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash.hash(state);
    }
}

impl Borrow<TokenHash> for ByHash {
    fn borrow(&self) -> &TokenHash {
        &self.0.hash
    }
}

impl Default for TokenTable {
    fn default() -> Self {
        let empty = Arc::default();
        Self {
            shards: (0..SHARDS).map(|_| Arc::clone(&empty)).collect(),
        }
    }
}

impl TokenTable {
    fn shard(hash: &TokenHash) -> usize {
        usize::from(u16::from_le_bytes([hash.0[0], hash.0[1]])) % SHARDS
    }

    /// The token with this hash. Comparing digests of secrets leaks nothing of use, so this
    /// is a plain lookup.
    pub fn get(&self, hash: &TokenHash) -> Option<&Arc<Token>> {
        let found = self.shards[Self::shard(hash)].get(hash);
        found.map(|token| &token.0)
    }

    /// A table with these tokens added and those hashes removed; untouched shards are shared.
    pub fn changed(&self, upserts: &[Arc<Token>], removals: &[TokenHash]) -> Self {
        let mut shards: Vec<_> = self.shards.iter().cloned().collect();
        for hash in removals {
            let shard = &mut shards[Self::shard(hash)];
            if shard.contains(hash) {
                Arc::make_mut(shard).remove(hash);
            }
        }
        // Growing step by step would leave as much garbage behind as there are tokens.
        let mut more = [0_usize; SHARDS];
        for token in upserts {
            more[Self::shard(&token.hash)] += 1;
        }
        for (shard, more) in shards.iter_mut().zip(more) {
            if more > 1 {
                Arc::make_mut(shard).reserve(more);
            }
        }
        for token in upserts {
            Arc::make_mut(&mut shards[Self::shard(&token.hash)]).replace(ByHash(Arc::clone(token)));
        }
        Self {
            shards: shards.into(),
        }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|s| s.is_empty())
    }

    /// All tokens, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Token>> {
        let tokens = self.shards.iter().flat_map(|shard| shard.iter());
        tokens.map(|token| &token.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names() {
        let cases = [
            ("*", "a/b", true),
            ("gpt-*", "gpt-4o", true),
            ("gpt-*", "xgpt-4o", false),
            ("*mini", "gpt-4o-mini", true),
            ("a*b*c", "a-b-b-c", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("", "a", false),
            ("**", "", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(
                Globs::new([pattern]).matches(name),
                expected,
                "{pattern} {name}"
            );
        }
    }

    fn token(text: &str) -> Arc<Token> {
        Arc::new(Token {
            id: TokenId::parse(text).unwrap(),
            hash: TokenHash::of(text.as_bytes()),
            owner: "o".into(),
            scope: Scope::User,
            expires: None,
            models: None,
            output_caps: Vec::new(),
            limits: TokenLimits::default(),
        })
    }

    #[test]
    fn a_token_of_the_same_hash_takes_the_others_place() {
        let before = token("a");
        let after = Arc::new(Token {
            scope: Scope::Admin,
            ..Token::clone(&before)
        });
        let table = TokenTable::default().changed(&[before], &[]);
        let table = table.changed(std::slice::from_ref(&after), &[]);
        assert_eq!(table.get(&after.hash), Some(&after));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_change_copies_only_the_shard_it_touches() {
        let (a, b) = (token("a"), token("b"));
        let one = TokenTable::default().changed(std::slice::from_ref(&a), &[]);
        let two = one.changed(std::slice::from_ref(&b), &[a.hash]);
        assert!(one.get(&a.hash).is_some() && one.get(&b.hash).is_none());
        assert!(two.get(&a.hash).is_none() && two.get(&b.hash).is_some());
        let shared = one
            .shards
            .iter()
            .zip(two.shards.iter())
            .filter(|(x, y)| Arc::ptr_eq(x, y));
        assert_eq!(shared.count(), SHARDS - 2);
    }
}
