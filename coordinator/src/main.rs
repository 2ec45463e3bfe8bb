//! The coordinator's binary.

fn main() -> std::process::ExitCode {
    coordinator::main()
}
