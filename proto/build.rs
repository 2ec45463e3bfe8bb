//! Compiles the `.proto` files with a compiler written in Rust, so that no build needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["access", "agent", "audit", "control", "raft", "secret"]
        .map(|name| format!("migration/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=migration/v1/common.proto");
    let descriptors = protox::compile(&files, ["."])?;
    write_methods(&descriptors)?;
    // The members choose tonic's transport themselves; generated code must not pull it in.
    tonic_prost_build::configure()
        .build_transport(false)
        // Few grants have one, and every message of the leader would have its size.
        .boxed(".migration.v1.Grant.relay")
        // Their generated debug form would show a password; `passwords.rs` has another.
        .skip_debug([
            ".migration.v1.LoginRequest",
            ".migration.v1.OwnPasswordRequest",
            ".migration.v1.CreateUserRequest",
            ".migration.v1.SetPasswordRequest",
            ".migration.v1.SetSecretRequest",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}

/// Writes the path of every method, so that a test can walk them all.
fn write_methods(descriptors: &protox::prost_reflect::prost_types::FileDescriptorSet) -> std::io::Result<()> {
    let mut list = String::from("&[");
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                list += &format!("\"/{}.{}/{}\",", file.package(), service.name(), method.name());
            }
        }
    }
    list.push(']');
    let directory = std::env::var("OUT_DIR").map_err(std::io::Error::other)?;
    std::fs::write(std::path::Path::new(&directory).join("methods.rs"), list)
}
