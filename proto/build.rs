//! Compiles the `.proto` files with a compiler written in Rust, so that no build needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["agent", "audit", "control", "raft"].map(|name| format!("migration/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=migration/v1/common.proto");
    let descriptors = protox::compile(&files, ["."])?;
    // The members choose tonic's transport themselves; generated code must not pull it in.
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
