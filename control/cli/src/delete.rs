//! `sideguard delete`: takes objects out of the desired state.

use std::path::PathBuf;
use std::process::ExitCode;

use sideguard_types::control::Name;

use crate::apply::show;
use crate::policy::Output;
use crate::remote::kind::{Kind, applied};
use crate::remote::manifest::{names, read};
use crate::remote::{Outcome, Place, done};

/// Flags of `sideguard delete`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sideguard delete policy deletes --tenant acme\n  sideguard delete -f policies/\n\n\
    Exit codes: 0 done, 1 control said no, 64 the files have errors, 125 control cannot be reached."
)]
pub(crate) struct Arguments {
    /// policy, budget, toolcatalog, agent or upstream.
    #[arg(value_parser = applied, required_unless_present = "file", requires = "name", conflicts_with = "file")]
    kind: Option<Kind>,
    /// Name of the object.
    #[arg(conflicts_with = "file")]
    name: Option<String>,
    /// Files and directories: what is deleted are the objects in them; `-` is standard input.
    #[arg(short, long, value_name = "PATH", num_args = 1..)]
    file: Vec<PathBuf>,
    /// Tenant of the object.
    #[arg(long, value_name = "TENANT", default_value = "default", conflicts_with = "file")]
    tenant: String,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Runs the verb.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    done(delete(arguments).await)
}

async fn delete(arguments: Arguments) -> Outcome {
    let Arguments { kind, name, file, tenant, output, place } = arguments;
    let client = place.client()?;
    let names = match (kind, name) {
        (Some(kind), Some(name)) => vec![Name { tenant, kind: kind.as_str().to_owned(), name }],
        _ => names(&read(&file)?)?,
    };
    show(&client.delete(&names).await?, false, output)
}
