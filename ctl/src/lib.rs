//! The command line: what an operator does and sees.
//!
//! It talks to the coordinator only, shows what it got over the wire or computed from it, and decides nothing about a
//! migration. One command is one file under `command/`; `output` is the only writer to the terminal; the kind of a
//! failure decides the exit code.

mod account;
mod cli;
mod client;
mod command;
mod context;
mod failure;
#[cfg(test)]
mod fake;
mod follow;
mod itemised;
mod limit;
mod output;
mod password;
mod rules;
mod settings;
mod summary;
mod verb;

pub use cli::main;
