//! `ctl`, the operator's hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    ctl::main()
}
