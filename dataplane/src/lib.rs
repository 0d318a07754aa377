//! bodhi-dataplane

pub mod proxy;
