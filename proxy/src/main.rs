//! `sideguard-proxy`: the slim binary of containers. The same daemon as `sideguard proxy`.

use std::path::PathBuf;
use std::process::ExitCode;

use sideguard_proxy::daemon;
use sideguard_runtime::telemetry::LogFormat;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: sideguard-proxy [-c FILE] [--state DIR]";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (mut file, mut state) = (None, None);
    while let Some(argument) = arguments.next() {
        let value = match argument.to_str() {
            Some("-c" | "--config") => &mut file,
            Some("--state") => &mut state,
            Some("--version") => {
                println!("sideguard-proxy {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            Some("-h" | "--help") => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ => return usage(),
        };
        *value = arguments.next().map(PathBuf::from);
        if value.is_none() {
            return usage();
        }
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(daemon::run(file.as_deref(), state, LogFormat::Json)),
        Err(error) => {
            eprintln!("sideguard-proxy: {error}");
            ExitCode::from(125)
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
