//! Signals of the operating system.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The first SIGTERM or SIGINT from now on: the handlers stand before this returns.
///
/// # Errors
/// When a handler cannot be installed.
pub fn terminated() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// SIGHUPs, one after the other.
pub type Hangups = Signal;

/// The stream of SIGHUPs, the request to read configuration again.
///
/// # Errors
/// When the handler cannot be installed.
pub fn hangups() -> std::io::Result<Hangups> {
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
