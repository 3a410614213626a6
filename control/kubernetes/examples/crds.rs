//! Writes the custom resource definitions into the Helm chart: `cargo run -p sideguard-kubernetes --example crds`.

use std::path::Path;

use sideguard_kubernetes::{definition, kinds::KINDS};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/sideguard/crds");
    std::fs::create_dir_all(&folder)?;
    for kind in KINDS {
        let (name, text) = definition::file(kind)?;
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
