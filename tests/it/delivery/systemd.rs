//! The systemd units.

use std::process::Command;

use harness::sidecar;

use super::{deploy, files, name, read};

#[test]
fn units_are_ones_that_systemd_takes_and_hold_the_daemon_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let units = files(&deploy("systemd"), ".service");
    assert_eq!(units.len(), 2);
    for unit in &units {
        let text = read(unit);
        assert!(text.contains("ExecStart=/usr/local/bin/sideguard "), "{}", unit.display());
        // The check wants the program to be there.
        let text = text.replace("/usr/local/bin/sideguard", &sidecar::binary().display().to_string());
        let copy = dir.path().join(format!("{}.service", name(unit)));
        std::fs::write(&copy, text).expect("a file");
        let analyze = |arguments: &[&str]| {
            let output = Command::new("systemd-analyze").args(arguments).arg(&copy).output();
            output.expect("systemd-analyze runs (tests/setup installs it)")
        };
        let checked = analyze(&["verify", "--man=no"]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() && said.is_empty(), "{}: {said}", unit.display());
        // 0 is the best there is, 10 the worst; the threshold is in tenths.
        let exposed = analyze(&["security", "--offline=yes", "--threshold=20"]);
        assert!(exposed.status.success(), "{}", String::from_utf8_lossy(&exposed.stdout));
    }
}
