//! How a sidecar that this command starts comes into a fleet.

use std::path::Path;

use anyhow::Context;
use sideguard_client::Client;
use sideguard_runtime::ports;
use sideguard_runtime::secret::Secret;
use sideguard_types::control::TokenRequest;
use sideguard_types::resource::{Control, TokenFile};

/// How long a token that is made here is good: it is used at once.
const MOMENT: u64 = 60;

/// A client with an operator's key.
pub(crate) fn operator(url: &str, key: &Path) -> anyhow::Result<Client> {
    let text = std::fs::read_to_string(key).with_context(|| format!("cannot read `{}`", key.display()))?;
    Ok(Client::new(url, Some(Secret::new(text.trim().to_owned())), None)?)
}

/// The configuration of a sidecar of the fleet at `url`, with a fresh enrolment token in `state`.
pub(crate) async fn enrolment(
    client: &Client,
    url: &str,
    state: &Path,
    tenant: Option<String>,
    agent: Option<String>,
) -> anyhow::Result<Control> {
    let asked = TokenRequest { tenant, agent, seconds: Some(MOMENT) };
    let token = client.token(&asked).await.context("control gives no enrolment token")?;
    std::fs::create_dir_all(state).with_context(|| format!("cannot make `{}`", state.display()))?;
    let file = state.join("enrol.token");
    ports::place(&file, token.token.as_bytes(), 0o600)
        .with_context(|| format!("cannot write `{}`", file.display()))?;
    Ok(Control::new(url.to_owned(), Some(TokenFile { file })))
}
