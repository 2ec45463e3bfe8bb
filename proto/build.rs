//! Compiles the `.proto` files with a compiler written in Rust, so that no build needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["access", "agent", "audit", "control", "raft"].map(|name| format!("migration/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=migration/v1/common.proto");
    let descriptors = protox::compile(&files, ["."])?;
    // The members choose tonic's transport themselves; generated code must not pull it in.
    tonic_prost_build::configure()
        .build_transport(false)
        // Their generated debug form would show a password; `passwords.rs` has another.
        .skip_debug([
            ".migration.v1.LoginRequest",
            ".migration.v1.OwnPasswordRequest",
            ".migration.v1.CreateUserRequest",
            ".migration.v1.SetPasswordRequest",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
