//! The binary under test, which waits at a gate where a test has closed one.

use std::path::PathBuf;

fn main() -> std::process::ExitCode {
    if let Some(gate) = std::env::var_os(tests::gate::VARIABLE).map(PathBuf::from) {
        transfer::before_every_group(move |is_over| tests::gate::pass(&gate, is_over));
    }
    agent::main()
}
