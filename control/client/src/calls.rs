//! One method for each route.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::json;
use sideguard_types::control::feed::{Beat, Has, Leave};
use sideguard_types::control::sinks::SinkState;
use sideguard_types::control::{
    Applied, Apply, Enrol, Enrolled, Feed, Generation, Kill, Name, Object, Page, Report, Scope, Sidecar,
    Token, TokenRequest, budgets,
};
use sideguard_types::delegation::{Passport, PassportRequest, Revoke};

use crate::feed::has_values;
use crate::query::{escaped, with_query};
use crate::{Ask, Client, ClientError, TO_FEED, TO_LEAVE, json};

/// Most pages of one listing that are read.
const MAX_PAGES: usize = 1_000;

/// Which part of a listing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Where it starts: a page's `next`; at the beginning when absent.
    pub after: Option<String>,
    /// Most items on the page; the service's own choice when absent.
    pub limit: Option<u32>,
}

/// Which objects.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Objects {
    /// Kind, such as `Policy`; all when absent.
    pub kind: Option<String>,
    /// Tenant; all that the key sees when absent.
    pub tenant: Option<String>,
    /// Labels that they must have.
    pub labels: BTreeMap<String, String>,
}

impl Client {
    /// `POST /v1/apply`: makes objects part of the desired state.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn apply(&self, apply: &Apply) -> Result<Applied, ClientError> {
        self.ask(Ask::post("/v1/apply", &json(apply)?)).await
    }

    /// `POST /v1/delete`: takes objects out of the desired state.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn delete(&self, names: &[Name]) -> Result<Applied, ClientError> {
        self.ask(Ask::post("/v1/delete", &json(&json!({ "names": names }))?)).await
    }

    /// `POST /v1/rollback`: makes the objects of generation `to` the desired state again, as a new generation.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn rollback(&self, to: u64) -> Result<Applied, ClientError> {
        self.ask(Ask::post("/v1/rollback", &json(&json!({ "to": to }))?)).await
    }

    /// `GET /v1/generations`: a page of them, the newest first.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn generations(&self, part: &Listing) -> Result<Page<Generation>, ClientError> {
        self.ask(Ask::get(&with_query("/v1/generations", &part.values()))).await
    }

    /// The newest generations, at most so many, the newest first.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn newest_generations(&self, most: usize) -> Result<Vec<Generation>, ClientError> {
        self.some("/v1/generations", Vec::new(), most).await
    }

    /// `GET /v1/generations/{number}`.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn generation(&self, number: u64) -> Result<Generation, ClientError> {
        self.ask(Ask::get(&format!("/v1/generations/{number}"))).await
    }

    /// `GET /v1/objects`: a page of them.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn objects(&self, which: &Objects, part: &Listing) -> Result<Page<Object>, ClientError> {
        let values: Vec<_> = which.values().into_iter().chain(part.values()).collect();
        self.ask(Ask::get(&with_query("/v1/objects", &values))).await
    }

    /// All objects of a sort, page by page.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn all_objects(&self, which: &Objects) -> Result<Vec<Object>, ClientError> {
        self.all("/v1/objects", which.values().to_vec()).await
    }

    /// `GET /v1/objects/{tenant}/{kind}/{name}`: one object; refused with 404 when there is none.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn object(&self, name: &Name) -> Result<Object, ClientError> {
        let Name { tenant, kind, name } = name;
        let path = format!("/v1/objects/{}/{}/{}", escaped(tenant), escaped(kind), escaped(name));
        self.ask(Ask::get(&path)).await
    }

    /// `GET /v1/sidecars`: all sidecars, of one tenant or of all that the key sees.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn sidecars(&self, tenant: Option<&str>) -> Result<Vec<Sidecar>, ClientError> {
        self.all("/v1/sidecars", vec![("tenant", tenant.map(str::to_owned))]).await
    }

    /// `GET /v1/kills`: all kill switches that are on.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn kills(&self) -> Result<Vec<Kill>, ClientError> {
        self.all("/v1/kills", Vec::new()).await
    }

    /// `GET /v1/sinks`: how the sinks of the record stand.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn sinks(&self) -> Result<Vec<SinkState>, ClientError> {
        self.all("/v1/sinks", Vec::new()).await
    }

    /// `POST /v1/kills`: stops everything in a scope.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn kill(&self, scope: &Scope, reason: &str) -> Result<Kill, ClientError> {
        self.ask(Ask::post("/v1/kills", &json(&json!({ "scope": scope.to_string(), "reason": reason }))?))
            .await
    }

    /// `DELETE /v1/kills?scope=`: lets a scope go on.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn unkill(&self, scope: &Scope) -> Result<(), ClientError> {
        let path = with_query("/v1/kills", &[("scope", Some(scope.to_string()))]);
        self.send(Ask::delete(&path)).await.map(drop)
    }

    /// `POST /v1/tokens`: makes an enrolment token.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn token(&self, request: &TokenRequest) -> Result<Token, ClientError> {
        self.ask(Ask::post("/v1/tokens", &json(request)?)).await
    }

    /// `POST /v1/enrol`: gets a sidecar's key for a token. Needs no key; go on with [`Client::with_key`].
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn enrol(&self, enrol: &Enrol) -> Result<Enrolled, ClientError> {
        self.ask(Ask::post("/v1/enrol", &json(enrol)?)).await
    }

    /// `POST /v1/passports`: a sidecar's passport, for the links that it signs.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn passport(&self, request: &PassportRequest) -> Result<Passport, ClientError> {
        self.ask(Ask::post("/v1/passports", &json(request)?)).await
    }

    /// `POST /v1/delegations/revoke`: ends a link and all that was handed on under it.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn revoke_delegation(&self, revoke: &Revoke) -> Result<Kill, ClientError> {
        self.ask(Ask::post("/v1/delegations/revoke", &json(revoke)?)).await
    }

    /// `GET /v1/feed`: what is newer than what a sidecar has. The service answers when there is something, or within 30 s.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn feed(&self, has: &Has) -> Result<Feed, ClientError> {
        let path = with_query("/v1/feed", &has_values(has));
        self.ask(Ask::get(&path).within(TO_FEED)).await
    }

    /// `POST /v1/report`: tells how a sidecar is; answered with what is in force, where the service is sure.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn report(&self, report: &Report) -> Result<Option<Beat>, ClientError> {
        self.ask(Ask::post("/v1/report", &json(report)?)).await
    }

    /// `POST /v1/leave`: tells that a sidecar ends for good.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn leave(&self, leave: &Leave) -> Result<(), ClientError> {
        self.send(Ask { within: TO_LEAVE, ..Ask::post("/v1/leave", &json(leave)?) }).await.map(drop)
    }

    /// `POST /v1/leases`: asks for a lease of budgets, and gives up after `within`: it may then have been granted or not.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn hold(&self, ask: &budgets::Ask, within: Duration) -> Result<budgets::Answer, ClientError> {
        let body = json(ask)?;
        self.ask(Ask { within, ..Ask::post("/v1/leases", &body) }).await
    }

    /// `POST /v1/leases/turns`: tells what was spent of leases, and gives up after `within`: it may then have been heard
    /// or not.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn turn_leases(
        &self,
        turns: &budgets::Turns,
        within: Duration,
    ) -> Result<budgets::Turned, ClientError> {
        let body = json(turns)?;
        self.ask(Ask { within, ..Ask::post("/v1/leases/turns", &body) }).await
    }

    /// `GET /v1/budgets`: how all accounts stand, of one tenant or of all that the key sees.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn budgets(&self, tenant: Option<&str>) -> Result<Vec<budgets::Account>, ClientError> {
        self.all("/v1/budgets", vec![("tenant", tenant.map(str::to_owned))]).await
    }

    /// `GET /readyz`: whether the service takes requests.
    ///
    /// # Errors
    /// As every call: [`ClientError`]; without a reason when it does not.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.send(Ask::get("/readyz")).await.map(drop)
    }

    /// All pages of a listing.
    pub(crate) async fn all<T: DeserializeOwned>(
        &self,
        path: &str,
        values: Vec<(&str, Option<String>)>,
    ) -> Result<Vec<T>, ClientError> {
        self.some(path, values, usize::MAX).await
    }

    /// As many pages of a listing as have `most` items, and no more items.
    async fn some<T: DeserializeOwned>(
        &self,
        path: &str,
        mut values: Vec<(&str, Option<String>)>,
        most: usize,
    ) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        for _ in 0..MAX_PAGES {
            let page: Page<T> = self.ask(Ask::get(&with_query(path, &values))).await?;
            items.extend(page.items);
            let Some(next) = page.next.filter(|_| items.len() < most) else {
                items.truncate(most);
                return Ok(items);
            };
            values.retain(|(name, _)| *name != "after");
            values.push(("after", Some(next)));
        }
        Err(self.protocol(format!("the listing `{path}` does not end")))
    }
}

impl Listing {
    pub(crate) fn values(&self) -> [(&'static str, Option<String>); 2] {
        [("after", self.after.clone()), ("limit", self.limit.map(|limit| limit.to_string()))]
    }
}

impl Objects {
    fn values(&self) -> [(&'static str, Option<String>); 3] {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = (!labels.is_empty()).then(|| labels.join(","));
        [("kind", self.kind.clone()), ("tenant", self.tenant.clone()), ("labels", labels)]
    }
}
