//! `sideguard wait`: until a sidecar has started. For a pod's first container, behind which others wait.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use sideguard_runtime::clock::Stopwatch;

use crate::report;

/// How often the sidecar is asked.
const AGAIN: Duration = Duration::from_millis(200);
/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Flags of `sideguard wait`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example, as a container's postStart hook:\n  sideguard wait --admin 127.0.0.1:4751 --seconds 60\n\n\
    Exit codes: 0 it has started, 125 it has not within the time."
)]
pub(crate) struct Arguments {
    /// Admin port of the sidecar.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4751")]
    admin: String,
    /// Longest time to wait, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let watch = Stopwatch::start();
    let most = Duration::from_secs(arguments.seconds.into());
    loop {
        let last = match status(&arguments.admin) {
            Ok(line) if line.contains(" 200 ") => return ExitCode::SUCCESS,
            Ok(line) => line.trim().to_owned(),
            Err(error) => error.to_string(),
        };
        if watch.elapsed() >= most {
            return report(
                &anyhow::anyhow!("the sidecar at `{}` has not started: {last}", arguments.admin),
                125,
            );
        }
        std::thread::sleep(AGAIN);
    }
}

/// The first line of its answer.
fn status(admin: &str) -> std::io::Result<String> {
    let address = admin.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| std::io::Error::other("it has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /startz HTTP/1.1\r\nhost: sidecar\r\nconnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
