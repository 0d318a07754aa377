//! Black-box tests of Bodhi: real programs on free ports, a scripted provider behind them, and
//! clients that count bytes.

pub mod provider;
