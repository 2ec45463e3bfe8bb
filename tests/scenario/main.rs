//! Whole migrations with real processes, through `ctl`, judged by programs that are not ours.

mod damage;
mod dev;
mod fidelity;
mod kill;
mod network;
mod plain;
mod refusal;
mod three;
mod undo;
mod unit;
