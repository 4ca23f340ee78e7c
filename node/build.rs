//! Puts libtorch's folder into the run path of everything that links this crate's tests and examples; before it the one where
//! packages put it, beside the program.
fn main() {
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("libtorch is missing: run scripts/libtorch first");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/ailo/libtorch");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
    println!("cargo:rustc-link-arg=-ltorch");
    println!("cargo:rerun-if-changed=build.rs");
}
