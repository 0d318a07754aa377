//! Black-box tests of Bodhi: real programs on free ports, a scripted provider behind them, and
//! clients that count bytes.
//!
//! - [`provider`]: the scripted provider itself; [`scripted`]: one that runs, and what it got.
//! - [`gateway`]: `bodhi up` with a folder of manifests; [`manifests`]: what to put there.
//! - [`apart`]: the same as two programs, each of which can be killed.
//! - [`authority`]: certificates made for one run.
//! - [`cluster`]: a real API server, with etcd and what else a test asks for.
//! - [`postgres`]: a database server that can be killed.
//! - [`wire`]: a client that sends exact bytes and tells how an answer ended.
//! - [`told`]: what a stream told a client.
//! - [`process`]: programs with their output, which is searched for secrets at the end.

pub mod apart;
pub mod authority;
pub mod cluster;
pub mod gateway;
pub mod manifests;
pub mod postgres;
pub mod process;
pub mod provider;
pub mod scripted;
pub mod told;
pub mod wire;
