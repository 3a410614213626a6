//! The images: what they are made of, and that the init step needs nothing that they lack.

use std::fs;
use std::process::{Command, Output};

use cargo_metadata::MetadataCommand;
use harness::sidecar;
use tempfile::TempDir;

use super::{deploy, read, root};

/// The Dockerfile with continued lines joined, without comments.
fn instructions() -> Vec<String> {
    let text = read(&deploy("images/Dockerfile")).replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Stages by name, each with its instructions.
fn stages() -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for line in instructions() {
        if let Some(from) = line.strip_prefix("FROM ") {
            let (_, name) = from.split_once(" AS ").expect("every stage has a name");
            all.push((name.to_owned(), Vec::new()));
        }
        if let Some((_, lines)) = all.last_mut() {
            lines.push(line);
        }
    }
    all
}

/// Words after each time that a flag is given.
fn flagged(line: &str, flag: &str) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1].to_owned()).collect()
}

#[test]
fn bases_are_pinned_by_digest_and_stages_are_made_of_them_alone() {
    let lines = instructions();
    let bases: Vec<&str> = lines
        .iter()
        .take_while(|line| !line.starts_with("FROM "))
        .filter_map(|line| line.strip_prefix("ARG "))
        .collect();
    assert_eq!(bases.len(), 3);
    for base in &bases {
        let (_, image) = base.split_once('=').expect("a default");
        let (tag, digest) = image.split_once("@sha256:").expect("a digest");
        assert!(tag.contains(':') && !tag.ends_with(":latest"), "{base}");
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{base}");
    }
    let mut known: Vec<String> =
        bases.iter().filter_map(|base| Some(format!("${{{}}}", base.split_once('=')?.0))).collect();
    for line in lines.iter().filter_map(|line| line.strip_prefix("FROM ")) {
        let (from, name) = line.split_once(" AS ").expect("a name");
        assert!(known.contains(&from.to_owned()), "{line}");
        known.push(name.to_owned());
    }
    let rust = bases.iter().find(|base| base.starts_with("RUST=")).expect("a toolchain");
    let channel = read(&root().join("rust-toolchain.toml"));
    let channel = channel.split('"').nth(1).expect("a channel");
    assert!(rust.starts_with(&format!("RUST=rust:{channel}-")), "{rust}: the toolchain is {channel}");
    let said = lines.iter().filter(|line| line.contains(&format!("RUSTUP_TOOLCHAIN={channel} "))).count();
    assert_eq!(said, 1);
}

#[test]
fn what_is_installed_on_the_way_is_pinned() {
    let lines = instructions().join("\n");
    let days: Vec<String> = flagged(&lines, "archive.sh");
    assert!(days.len() == 2 && days[0] == days[1], "packages are of one day: {days:?}");
    assert!(days[0].ends_with("T000000Z"));
    assert!(lines.contains("nftables="));
    let chef = lines.lines().find(|line| line.contains("cargo install")).expect("cargo-chef");
    assert!(chef.contains("--locked --version "), "{chef}");
    for cargo in lines.lines().filter(|line| line.contains("cargo build") || line.contains("chef cook")) {
        assert!(cargo.contains(" --locked "), "{cargo}");
    }
}

#[test]
fn images_run_as_nobody_special_and_have_one_program_each() {
    let stages = stages();
    let finals: Vec<&(String, Vec<String>)> =
        stages.iter().filter(|(_, lines)| lines[0].starts_with("FROM ${BASE}")).collect();
    assert_eq!(finals.len(), 3);
    for (name, lines) in finals {
        let has = |line: &str| assert!(lines.contains(&line.to_owned()), "{name}: no `{line}`");
        has("USER 65532:65532");
        has(&format!("ENTRYPOINT [\"/usr/local/bin/{name}\"]"));
        has(&format!("ARG VERSION={}", env!("CARGO_PKG_VERSION")));
        assert!(!lines.iter().any(|line| line.starts_with("RUN ")), "{name}");
        let label = lines.iter().find(|line| line.starts_with("LABEL ")).expect("labels");
        assert!(label.contains(&format!("image.title=\"{name}\"")), "{label}");
        // A time would make each build another image.
        assert!(!label.contains("created"), "{label}");
    }
}

#[test]
fn cargo_knows_what_the_build_names() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec();
    let metadata = metadata.expect("cargo metadata runs");
    let lines = instructions();
    let build = lines.iter().find(|line| line.contains("cargo build")).expect("a build");
    let cook = lines.iter().find(|line| line.contains("cargo chef cook")).expect("dependencies");
    let packages = flagged(build, "--package");
    assert_eq!(packages.len(), 3);
    assert_eq!(flagged(cook, "--package"), packages);
    assert_eq!(flagged(cook, "--profile"), flagged(build, "--profile"));
    let profile = format!("[profile.{}]", flagged(build, "--profile")[0]);
    assert!(read(&root().join("Cargo.toml")).contains(&profile), "{profile}");
    for bin in flagged(build, "--bin") {
        let there = metadata.packages.iter().any(|package| {
            packages.iter().any(|name| *name == package.name.as_str())
                && package.targets.iter().any(|target| target.is_bin() && target.name == bin)
        });
        assert!(there, "no program `{bin}`");
        let taken =
            lines.iter().any(|line| line.contains(&format!("target/dist/{bin} /usr/local/bin/{bin}")));
        assert!(taken, "`{bin}` is in no image");
    }
    // All of the workspace is there: Cargo reads each member's manifest.
    let ignore = read(&deploy("images/Dockerfile.dockerignore"));
    for package in &metadata.packages {
        let dir = package.manifest_path.parent().expect("a folder");
        let dir = dir.strip_prefix(root()).expect("a folder of the workspace").to_string();
        let top = dir.split('/').next().expect("a folder");
        assert!(ignore.contains(&format!("\n!{top}\n")), "`{dir}` is left out");
        assert!(!ignore.lines().any(|line| dir.starts_with(line) && !line.is_empty()), "`{dir}` is left out");
    }
}

fn must(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the image `sideguard` has, as far as programs in it are concerned.
pub(super) fn image() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let image = dir.path();
    must(Command::new(deploy("images/nft.sh")).arg(image).output().expect("the script runs"));
    let put = |from: &str, to: &str| {
        let to = image.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(from, to).expect("a copy");
    };
    // What the base has: the C library and its loader.
    let ldd = Command::new("ldd").arg(sidecar::binary()).output().expect("ldd runs");
    let ldd = String::from_utf8_lossy(&ldd.stdout).into_owned();
    ldd.split_whitespace().filter(|word| word.starts_with('/')).for_each(|path| put(path, path));
    put(&sidecar::binary().display().to_string(), "usr/local/bin/sideguard");
    dir
}

#[test]
fn the_init_step_needs_nothing_that_the_image_lacks() {
    assert!(rustix::process::geteuid().is_root(), "a root directory of its own needs root");
    let image = image();
    // A pod's network, and the rights that an init container has there; the last one is for `chroot` alone.
    let script = "ip link set lo up && ip addr add 192.0.2.2/24 dev lo && ip route add default dev lo && \
        caps=-all,+net_admin,+sys_chroot && \
        setpriv --bounding-set=$caps --inh-caps=$caps --no-new-privs chroot \"$0\" \"$@\" && nft list ruleset";
    let mut init = Command::new("unshare");
    init.args(["--net", "sh", "-c", script]).arg(image.path()).arg("/usr/local/bin/sideguard");
    let init = init.args(["init", "--proxy-uid", "14102"]).output().expect("unshare runs");
    assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    assert!(String::from_utf8_lossy(&init.stdout).contains("table inet sideguard"));
}
