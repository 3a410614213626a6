//! The one way of a call: accept → identify → classify → decide → reserve → record → forward → observe. Each stage
//! takes by value what the one before it made, so that none can be left out. A call that people have to say yes to waits
//! after decide, is decided on again, and uses its approval up once everything else is in place for it to leave.

use std::sync::Arc;

use sideguard_types::refusal::{Code, Refusal};

use crate::app::Sidecar;
use crate::call::{Arrival, Exchange};
use crate::decide::Withheld;
use crate::engine::Down;
use crate::forward::Unsent;
use crate::observe::End;
use crate::{
    accept, approve, audit, classify, decide, forward, identify, inbound, observe, reserve, respond, work,
};

/// Serves one exchange. Returns the agent's side when its connection may go on.
pub(crate) async fn serve(sidecar: &Arc<Sidecar>, arrival: &Arrival, mut down: Down) -> Option<Down> {
    let passed = match &arrival.inbound {
        Some(inbound) => Box::pin(inbound::pass(sidecar, inbound, arrival, &mut down)).await,
        None => pass(sidecar, arrival, &mut down).await,
    };
    match passed {
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
    let identified = identify::identify(sidecar, arrival, accepted)?;
    if let Some(asked) = identified.exchange.own.clone() {
        return Box::pin(work::serve(sidecar, identified, &asked, down)).await;
    }
    let classified = classify::classify(sidecar, identified, &down.head().headers)?;
    let cleared = match decide::decide(sidecar, classified) {
        Ok(cleared) => cleared,
        Err(Withheld::Refused(refused)) => return Err(refused.into()),
        Err(Withheld::Awaiting(awaiting)) => {
            let approved = Box::pin(approve::approve(sidecar, *awaiting, down)).await?;
            decide::decide_approved(sidecar, approved)?
        }
    };
    let reserved = reserve::reserve(sidecar, cleared).await?;
    let redeemed = approve::redeem(sidecar, reserved).await?;
    let recorded = audit::intent(sidecar, redeemed).await?;
    let sent = forward::forward(sidecar, recorded, down).await?;
    observe::observe(sidecar, sent, down).await
}

/// Answers what is not HTTP, and records that.
pub(crate) async fn malformed(sidecar: &Sidecar, arrival: &Arrival, down: &mut Down) {
    let mut exchange = Exchange::new(sidecar.policy.load_full(), "");
    match &arrival.inbound {
        Some(inbound) => exchange.caller = Some(Arc::clone(&inbound.agent)),
        // Whoever is not known stays so.
        None => {
            let _ = identify::know(sidecar, &mut exchange, arrival, arrival.key.as_ref());
        }
    }
    let refusal = Refusal::new(Code::Malformed, "http", "the request is not valid HTTP");
    respond::refuse_unread(sidecar, down, exchange.refuse(refusal)).await;
}
