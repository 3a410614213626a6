//! The one way of a call: accept → identify → classify → decide → reserve → record → forward → observe. Each stage
//! takes by value what the one before it made, so that none can be left out.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use sideguard_types::refusal::{Code, Refusal};

use crate::app::Sidecar;
use crate::call::{Arrival, Exchange, Refused};
use crate::engine::{Down, Length, Reply};
use crate::forward::Unsent;
use crate::observe::End;
use crate::{accept, audit, classify, decide, forward, identify, observe, reserve, respond};

/// Serves one exchange. Returns the agent's side when its connection may go on.
pub(crate) async fn serve(sidecar: &Arc<Sidecar>, arrival: &Arrival, mut down: Down) -> Option<Down> {
    match pass(sidecar, arrival, &mut down).await {
        Ok(End::Whole) => Some(down),
        Ok(End::Broken) | Err(Unsent::Gone) => {
            down.break_off().await;
            None
        }
        Err(Unsent::Refused(refused)) => {
            respond::refuse(sidecar, &mut down, *refused).await;
            Some(down)
        }
    }
}

async fn pass(sidecar: &Arc<Sidecar>, arrival: &Arrival, down: &mut Down) -> Result<End, Unsent> {
    let accepted = accept::accept(sidecar, arrival, down).await?;
    let identified = identify::identify(sidecar, &arrival.whose, accepted)?;
    let classified = classify::classify(sidecar, identified, &down.head().headers)?;
    let cleared = decide::decide(sidecar, classified)?;
    let reserved = reserve::reserve(sidecar, cleared).await?;
    let recorded = audit::intent(sidecar, reserved).await?;
    let sent = forward::forward(sidecar, recorded, down).await?;
    observe::observe(sidecar, sent, down).await
}

/// Answers what is not HTTP, and records that.
pub(crate) async fn malformed(sidecar: &Sidecar, _arrival: &Arrival, down: &mut Down) {
    let exchange = Exchange::new(sidecar.policy.load_full(), "");
    let refused: Refused =
        exchange.refuse(Refusal::new(Code::Malformed, "http", "the request is not valid HTTP"));
    let mut head = Reply::new(StatusCode::BAD_REQUEST);
    head.set(header::CONNECTION, HeaderValue::from_static("close"));
    audit::refused(sidecar, &refused, 400);
    // Nobody may be listening any more.
    let _ = down.reply(head, Length::Known(0)).await;
}
