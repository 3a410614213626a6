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

/// Makes a write beyond the file size limit (`ulimit -f`) an error instead of the end of the process: a record that
/// cannot be written refuses calls, it does not take the sidecar down.
///
/// # Errors
/// When the handler cannot be installed.
pub fn survive_file_size_limit() -> std::io::Result<()> {
    const SIGXFSZ: i32 = 25;
    // The handler stays when the stream is dropped.
    signal(SignalKind::from_raw(SIGXFSZ)).map(drop)
}
