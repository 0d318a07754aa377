//! Who holds which part of the cache.
