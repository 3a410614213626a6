//! Signals of the operating system.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for the first SIGTERM or SIGINT.
///
/// # Errors
/// When a handler cannot be installed.
pub async fn terminated() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// The stream of SIGHUPs, the request to read configuration again.
///
/// # Errors
/// When the handler cannot be installed.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}
