//! Compiles the `.proto` files with protox, so that a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/ailo.proto"], ["proto"])?;
    // `Bytes` shares the buffer a message was decoded from instead of copying out of it.
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
