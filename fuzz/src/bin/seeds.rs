//! Writes every target's valid examples into `corpus/`, where cargo-fuzz looks for them, and prints the targets' names.

fn main() -> std::io::Result<()> {
    for target in ailo_fuzz::targets::ALL {
        let folder = std::path::Path::new("corpus").join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (i, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{i}")), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
