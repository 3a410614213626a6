//! Approvals: what sidecars ask, and what people answer.

use std::time::Duration;

use sideguard_types::control::Page;
use sideguard_types::control::approvals::{Answer, Approval, Ask as Question, Redeem, Standing, State};

use crate::query::{escaped, with_query};
use crate::{Ask, Client, ClientError, Listing, json};

/// How much longer than the service holds a question its answer may take.
const GRACE: Duration = Duration::from_secs(10);

impl Client {
    /// `POST /v1/approvals`: asks people about a held request, or finds how the same one stands.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn ask_approval(&self, question: &Question) -> Result<Standing, ClientError> {
        self.ask(Ask::post("/v1/approvals", &json(question)?)).await
    }

    /// `GET /v1/approvals/{id}/grant`: how an approval stands, once it is decided or after so many seconds; the service
    /// answers within 25 s.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn await_approval(&self, id: &str, seconds: u64) -> Result<Standing, ClientError> {
        let path = format!("/v1/approvals/{}/grant?wait={seconds}", escaped(id));
        let within = Duration::from_secs(seconds) + GRACE;
        self.ask(Ask::get(&path).within(within)).await
    }

    /// `POST /v1/approvals/{id}/grant`: uses a grant up for one call; for the same call it can be asked again.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; refused with 409 when there is no grant for this.
    pub async fn redeem_approval(&self, id: &str, redeem: &Redeem) -> Result<Standing, ClientError> {
        let path = format!("/v1/approvals/{}/grant", escaped(id));
        self.ask(Ask::post(&path, &json(redeem)?).within(GRACE)).await
    }

    /// `GET /v1/approvals`: a page of them, the newest of each tenant first.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn approvals(
        &self,
        state: Option<State>,
        part: &Listing,
    ) -> Result<Page<Approval>, ClientError> {
        let state = ("state", state.map(|state| state.as_str().to_owned()));
        let values: Vec<_> = std::iter::once(state).chain(part.values()).collect();
        self.ask(Ask::get(&with_query("/v1/approvals", &values))).await
    }

    /// `GET /v1/approvals/{id}`: one, with the whole request.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn approval(&self, id: &str) -> Result<Approval, ClientError> {
        self.ask(Ask::get(&format!("/v1/approvals/{}", escaped(id)))).await
    }

    /// `POST /v1/approvals/{id}`: a person's answer.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn answer_approval(&self, id: &str, answer: &Answer) -> Result<Approval, ClientError> {
        let path = format!("/v1/approvals/{}", escaped(id));
        self.ask(Ask::post(&path, &json(answer)?)).await
    }
}
