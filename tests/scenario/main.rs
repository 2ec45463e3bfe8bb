//! Whole migrations with real processes, through `ctl`, judged by programs that are not ours.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod access;
mod audit;
mod canary;
mod catch_up;
mod control;
mod damage;
mod dev;
mod domain;
mod fidelity;
mod hostile;
mod kill;
mod long_link;
mod network;
mod plain;
mod refusal;
mod retention;
mod rotation;
mod rules;
mod secrets;
mod stall;
mod stranger;
mod three;
mod undo;
mod unit;
mod unprivileged;
