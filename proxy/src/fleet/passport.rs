//! The sidecar's passport: control's word that its key is one of this fleet's. It goes along with every link that the sidecar
//! signs, so that whoever gets one can check it without asking anybody.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sideguard_client::{Client, ClientError};
use sideguard_policy::chain::{is_passport, unhex};
use sideguard_runtime::{chance, clock};
use sideguard_types::control::Enrolled;
use sideguard_types::delegation::{Passport, PassportRequest};

use super::Fleet;
use super::link::Never;
use crate::app::Sidecar;

/// How often it is renewed: it holds much longer, so that work goes on while control is away.
const RENEW: Duration = Duration::from_secs(3_600);
/// Pause after control gave none.
const PAUSE: Duration = Duration::from_secs(5);

/// What delegation needs of control.
#[derive(Debug, Default)]
pub(super) struct Passports {
    /// Control's public key.
    signer: ArcSwapOption<[u8; 32]>,
    own: ArcSwapOption<Passport>,
}

impl Passports {
    /// Takes over control's key, the one that enrolment told.
    pub(super) fn trust(&self, identity: &Enrolled) {
        self.signer.store(unhex(&identity.signer).map(Arc::new));
    }
}

impl Fleet {
    /// Control's public key, once it is known.
    pub(crate) fn signer(&self) -> Option<Arc<[u8; 32]>> {
        self.passports.signer.load_full()
    }

    /// The sidecar's passport, while it holds.
    pub(crate) fn passport(&self) -> Option<Arc<Passport>> {
        self.passports.own.load_full().filter(|passport| passport.expires > clock::now())
    }
}

/// Keeps a passport that holds.
pub(super) async fn keep(
    sidecar: &Sidecar,
    fleet: &Fleet,
    client: &Client,
    identity: &Enrolled,
) -> Result<Never, String> {
    let ask = PassportRequest { key: sidecar.log.public_key().to_owned() };
    loop {
        let pause = match client.passport(&ask).await {
            Ok(passport) if is_ours(fleet, identity, &ask, &passport) => {
                fleet.passports.own.store(Some(Arc::new(passport)));
                RENEW
            }
            Ok(_) => {
                tracing::error!("a passport is not this sidecar's, or not signed by control: it is ignored");
                PAUSE
            }
            // Whoever knows nothing of passports delegates nothing; the rest of the fleet's ways go on.
            Err(ClientError::Refused(problem)) => {
                tracing::warn!(error = problem.detail, "control gives no passport: work cannot be handed on");
                PAUSE
            }
            Err(error) => return Err(error.to_string()),
        };
        tokio::time::sleep(pause + chance::within(pause / 10)).await;
    }
}

fn is_ours(fleet: &Fleet, identity: &Enrolled, ask: &PassportRequest, passport: &Passport) -> bool {
    let own = passport.tenant == identity.tenant && passport.sidecar == fleet.id() && passport.key == ask.key;
    own && fleet.signer().is_some_and(|signer| is_passport(passport, &signer))
}
