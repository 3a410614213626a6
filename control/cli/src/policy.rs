//! `sideguard policy`: works offline.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {}
pub(crate) fn run(verb: Verb) -> std::process::ExitCode { match verb {} }
