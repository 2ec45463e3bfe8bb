//! The binary under test.

fn main() -> std::process::ExitCode {
    coordinator::main()
}
