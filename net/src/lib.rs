//! bodhi-net
