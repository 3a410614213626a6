//! Runs `nft`.

use std::io::{self, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{DROPPED, DROPPED_PREFIX, NOBODY, Rules, TABLE};

/// Where `nft` is looked for when it is not on the path: users' paths often leave these out.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// The rules cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// `nft` is not installed.
    #[error("`nft` is not installed (Debian, Ubuntu, Alpine, Fedora: package `nftables`)")]
    Missing,
    /// The kernel says no.
    #[error(
        "the rules need CAP_NET_ADMIN in this network namespace: run this as root, or in a container with `capabilities: {{add: [NET_ADMIN]}}` ({0})"
    )]
    Privilege(String),
    /// `nft` cannot be run.
    #[error("`nft` cannot be run")]
    Run(#[source] io::Error),
    /// `nft` does not take the rules.
    #[error("`nft` refuses the rules: {0}")]
    Refused(String),
}

/// Puts rules in place, all at once; what was there of an earlier set is replaced.
///
/// # Errors
/// When `nft` or the privilege is missing. Nothing has changed then.
pub fn apply(rules: &Rules) -> Result<(), ApplyError> {
    nft(&["-f", "-"], &rules.text()).map(drop)
}

/// Takes the rules away. Having none is no error.
///
/// # Errors
/// As for [`apply`].
pub fn remove() -> Result<(), ApplyError> {
    nft(&["-f", "-"], &format!("table inet {TABLE}\ndelete table inet {TABLE}\n")).map(drop)
}

/// How many packets of each kind were dropped, in the order of [`DROPPED`].
///
/// # Errors
/// As for [`apply`].
pub fn counters() -> Result<[u64; DROPPED.len()], ApplyError> {
    let text = nft(&["list", "counters", "table", "inet", TABLE], "")?;
    let mut found = [0; DROPPED.len()];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    for (at, pair) in words.windows(5).enumerate() {
        let [counter, name, open, packets, number] = *pair else { continue };
        if counter != "counter" || open != "{" || packets != "packets" {
            continue;
        }
        let kind = name.strip_prefix(DROPPED_PREFIX);
        let place =
            DROPPED.iter().position(|known| kind == Some(known)).and_then(|place| found.get_mut(place));
        if let Some(place) = place {
            *place = number.parse().map_err(|_| ApplyError::Refused(format!("word {at} of its counters")))?;
        }
    }
    Ok(found)
}

/// Whether the rules hold for this process: connections that they redirect are refused at once, as they must be while
/// nothing listens, or there is no way out at all. To be asked before the sidecar starts.
#[must_use]
pub fn hold() -> bool {
    NOBODY.iter().all(|address| {
        TcpStream::connect_timeout(address, Duration::from_secs(2)).is_err_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::AddrNotAvailable
            )
        })
    })
}

fn nft(arguments: &[&str], input: &str) -> Result<String, ApplyError> {
    let mut child = Command::new(program().ok_or(ApplyError::Missing)?)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ApplyError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have ended already; its own words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(ApplyError::Run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let told = told.lines().next().unwrap_or("no reason given").trim().to_owned();
    if told.contains("not permitted") || told.contains("Permission denied") {
        return Err(ApplyError::Privilege(told));
    }
    Err(ApplyError::Refused(told))
}

/// `nft`, from directories that belong to the system: the path of whoever runs this is not asked.
fn program() -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join("nft")).find(|path| path.exists())
}
