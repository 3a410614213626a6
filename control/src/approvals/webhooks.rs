//! Signed webhooks: notifications of new approvals out, answers in.
//!
//! A notification is written down together with its approval and sent by whichever replica takes it first, again after
//! failures, a bounded number of times. An answer is believed when it is signed with a webhook's secret, not older than
//! five minutes, repeats the nonce of the notification, and has not come before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use sideguard_runtime::clock;
use sideguard_runtime::https::Place;
use sideguard_store::documents::{Document, Edit, Expect};
use sideguard_store::key::Prefix;
use sideguard_store::{Store, StoreError};
use sideguard_types::control::approvals::{Answer, Approval, Callback, Notification, State};
use sideguard_types::control::webhook::{SIGNATURE_HEADER, TIMESTAMP_HEADER, signed};
use sideguard_types::resource::ApprovalsSpec;
use sideguard_types::time::Timestamp;

use super::place::missing;
use super::{KEPT, bytes, own_key, state, tenant_of, whole};
use crate::error::Failure;
use crate::keys::{OWN, Principal, Role};
use crate::webhook::Key;

/// How old a signature may be, or how far ahead.
const FRESH: Duration = Duration::from_secs(300);
/// Most webhooks.
const MOST: usize = 8;
/// How often a notification is tried.
const TRIES: u32 = 8;
/// How long a replica that has taken a notification has for it.
const TAKEN: Duration = Duration::from_secs(60);
/// Pause after the first failure; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// How often notifications are looked for when nothing says that there are new ones.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time for a webhook to take a notification.
const WITHIN: Duration = Duration::from_secs(5);
/// Most notifications on their way at once.
const AT_ONCE: usize = 16;

/// The webhooks of this service.
#[derive(Default)]
pub(crate) struct Webhooks(Vec<Webhook>);

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} webhooks", self.0.len())
    }
}

struct Webhook {
    url: String,
    place: Place,
    key: Key,
    tenant: Option<String>,
    name: Option<String>,
    approvals: bool,
}

impl Webhook {
    fn is_for(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let mut headers = self.key.headers(clock::now(), &body)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let status = self.place.post(headers, Bytes::from(body), WITHIN).await?.status;
        if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
    }

    /// What an answer about an approval must repeat; nobody can tell it without the secret.
    fn nonce(&self, id: &str) -> String {
        self.key.sign(format!("nonce {id}").as_bytes())
    }
}

/// A notification that is to be sent.
#[derive(Debug, Serialize, Deserialize)]
struct Due {
    id: String,
    tenant: String,
    /// URLs that have not taken it yet.
    urls: Vec<String>,
    tries: u32,
    next: Timestamp,
}

impl Webhooks {
    /// Reads the secrets.
    ///
    /// # Errors
    /// What is wrong with a webhook.
    pub(crate) fn open(spec: &ApprovalsSpec) -> Result<Self, String> {
        if spec.webhooks.len() > MOST {
            return Err(format!("approvals: more than {MOST} webhooks"));
        }
        let open = |webhook: &sideguard_types::resource::Webhook| {
            let path = webhook.secret.file.display();
            let secret = std::fs::read_to_string(&webhook.secret.file)
                .map_err(|error| format!("approvals: `{path}`: {error}"))?;
            let key = Key::new(secret.trim()).map_err(|error| format!("approvals: `{path}` {error}"))?;
            Ok(Webhook {
                url: webhook.url.clone(),
                place: Place::new(&webhook.url, None).map_err(|error| format!("approvals: {error}"))?,
                key,
                tenant: webhook.tenant.clone(),
                name: webhook.name.clone(),
                approvals: webhook.approvals,
            })
        };
        spec.webhooks.iter().map(open).collect::<Result<_, String>>().map(Self)
    }

    /// The notification of a new approval, to be written together with it.
    pub(super) fn due(&self, approval: &Approval, now: Timestamp) -> Result<Option<Edit>, Failure> {
        let Approval { id, tenant, .. } = approval;
        let urls: Vec<String> = self
            .0
            .iter()
            .filter(|hook| hook.approvals && hook.is_for(tenant))
            .map(|hook| hook.url.clone())
            .collect();
        if urls.is_empty() {
            return Ok(None);
        }
        let due = Due { id: id.clone(), tenant: tenant.clone(), urls, tries: 0, next: now };
        let edit = Edit::put(own_key(&format!("approvals-due/{id}"))?, bytes(&due)?, Expect::Absent);
        Ok(Some(edit.until(Some(approval.expires))))
    }

    /// Sends what is due until the task is dropped.
    pub(crate) async fn follow(self: Arc<Self>, store: Store) {
        let Ok(scope) = Prefix::new(OWN, "approvals-due") else { return };
        if self.0.is_empty() {
            return;
        }
        let mut changes = store.documents.watch(scope.clone().into());
        loop {
            match store.documents.list(clock::now(), &scope.clone().into(), None, 1_000).await {
                Ok(page) => {
                    let sending = futures_util::stream::iter(page.documents);
                    sending.for_each_concurrent(AT_ONCE, |document| self.attend(&store, document)).await;
                }
                Err(error) => tracing::warn!(%error, "notifications of approvals cannot be read"),
            }
            tokio::select! {
                change = changes.next() => if change.is_none() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Sends a message of a workflow to the webhook of a name.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(crate) async fn notify(
        &self,
        name: &str,
        tenant: &str,
        notice: &impl Serialize,
    ) -> Result<(), String> {
        let named = |hook: &&Webhook| hook.name.as_deref() == Some(name) && hook.is_for(tenant);
        let hook = self
            .0
            .iter()
            .find(named)
            .ok_or_else(|| format!("there is no webhook `{name}` for this tenant"))?;
        hook.post(serde_json::to_vec(notice).map_err(|error| error.to_string())?).await
    }

    async fn attend(&self, store: &Store, document: Document) {
        if let Err(error) = self.attempt(store, &document).await {
            tracing::warn!(%error, notification = %document.key, "a notification is not sent");
        }
    }

    /// Takes a notification that is due, sends it, and says what is left to be done.
    async fn attempt(&self, store: &Store, document: &Document) -> Result<(), Failure> {
        let now = clock::now();
        let broken = |_| Failure::Broken(document.key.to_string());
        let mut due: Due = serde_json::from_slice(&document.value).map_err(broken)?;
        if now < due.next {
            return Ok(());
        }
        due.tries += 1;
        due.next = now.plus(TAKEN);
        let put = async |due: &Due, expect| {
            let value = bytes(due)?;
            match store.documents.put(clock::now(), &document.key, value, expect, document.expires).await {
                Ok(revision) => Ok(Some(revision)),
                // Another replica was faster.
                Err(StoreError::Conflict { .. }) => Ok(None),
                Err(error) => Err(Failure::from(error)),
            }
        };
        let Some(taken) = put(&due, Expect::Revision(document.revision)).await? else { return Ok(()) };
        let owner = Principal::new(super::state::WEBHOOK, Role::Viewer, None);
        let approval = whole(store, clock::now(), &owner, &due.id).await?;
        let mut left = Vec::new();
        if approval.state == State::Pending {
            for url in &due.urls {
                if let Err(error) = self.send(url, &approval).await {
                    tracing::warn!(
                        url,
                        approval = due.id,
                        tries = due.tries,
                        error,
                        "a webhook did not take a notification"
                    );
                    left.push(url.clone());
                }
            }
        }
        if left.is_empty() || due.tries >= TRIES {
            store.documents.delete(clock::now(), &document.key, Expect::Revision(taken)).await?;
            return Ok(());
        }
        due.urls = left;
        due.next = clock::now().plus(PAUSE.saturating_mul(1 << due.tries.min(6)));
        put(&due, Expect::Revision(taken)).await.map(drop)
    }

    async fn send(&self, url: &str, approval: &Approval) -> Result<(), String> {
        // One that is no longer configured has taken all that it will.
        let Some(hook) = self.0.iter().find(|hook| hook.url == url && hook.is_for(&approval.tenant)) else {
            return Ok(());
        };
        let notification = Notification {
            event: "approval.asked".to_owned(),
            approval: approval.clone(),
            nonce: hook.nonce(&approval.id),
            answer: format!("/v1/approvals/{}/webhook", approval.id),
        };
        hook.post(serde_json::to_vec(&notification).map_err(|error| error.to_string())?).await
    }

    /// The webhook whose signature a request has.
    fn signer(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<&Webhook, Failure> {
        let text = |name: &str| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
        };
        let timestamp = text(TIMESTAMP_HEADER).ok_or(Failure::Unauthenticated)?;
        let signature = text(SIGNATURE_HEADER)
            .and_then(|signature| unhex(signature.strip_prefix("v1=")?))
            .ok_or(Failure::Unauthenticated)?;
        let message = signed(timestamp, body);
        let signer = self.0.iter().find(|hook| hook.key.signed(&message, &signature));
        let signer = signer.ok_or(Failure::Unauthenticated)?;
        // Told only to whoever knows the secret.
        let time: i64 = timestamp.parse().map_err(|_| Failure::Unauthenticated)?;
        let away = now.seconds().abs_diff(time);
        if away > FRESH.as_secs() {
            let what = format!("the signature is {away} s away from now: sign with the time of the answer");
            return Err(Failure::Invalid(what));
        }
        Ok(signer)
    }

    /// Takes a webhook's answer.
    pub(crate) async fn answered(
        &self,
        store: &Store,
        id: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Approval, Failure> {
        let now = clock::now();
        let hook = self.signer(headers, body, now)?;
        let callback: Callback =
            serde_json::from_slice(body).map_err(|error| Failure::Invalid(error.to_string()))?;
        let by = callback.by.as_deref().map(|by| by.chars().filter(|c| !c.is_control()).take(100));
        let name = by.map_or_else(
            || state::WEBHOOK.to_owned(),
            |by| format!("{}:{}", state::WEBHOOK, by.collect::<String>()),
        );
        let who = Principal::new(name, Role::Approver, hook.tenant.clone());
        let tenant = tenant_of(store, now, &who, id).await?;
        if !same(callback.nonce.as_bytes(), hook.nonce(id).as_bytes()) {
            return Err(Failure::Invalid("the nonce is not the notification's".to_owned()));
        }
        let mark = own_key(&format!("approvals-answered/{id}/{}", callback.verdict.as_str()))?;
        if store.documents.get(now, &mark).await?.is_some() {
            return Err(Failure::Conflict(format!(
                "approval `{id}` has been answered so by a webhook already"
            )));
        }
        let mark = Edit::put(mark, Bytes::new(), Expect::Absent).until(Some(now.plus(KEPT)));
        let answer = Answer { verdict: callback.verdict, reason: callback.reason };
        super::answered(store, &who, &tenant, id, &answer, vec![mark]).await.map_err(
            |failure| match failure {
                // Which one it is was said already.
                Failure::Missing(_) => missing(id),
                other => other,
            },
        )
    }
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    digits.as_chunks::<2>().0.iter().map(|[high, low]| u8::try_from(high * 16 + low).ok()).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use ring::hmac;
    use sideguard_types::control::webhook::{SIGNATURE_HEADER, TIMESTAMP_HEADER, signed};
    use sideguard_types::time::Timestamp;

    use super::{Key, Place, Webhook, Webhooks};
    use crate::error::Failure;

    const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

    fn webhooks() -> Webhooks {
        let hook = |secret: &str| Webhook {
            url: "http://h/".to_owned(),
            place: Place::new("http://h/", None).expect("a URL"),
            key: Key::new(secret).expect("long enough"),
            tenant: None,
            name: None,
            approvals: true,
        };
        Webhooks(vec![hook("one secret of many"), hook("another one of them")])
    }

    fn headers(time: i64, body: &[u8]) -> HeaderMap {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"another one of them");
        let signature = hmac::sign(&key, &signed(&time.to_string(), body));
        let mut headers = HeaderMap::new();
        let mut set = |name, value: String| {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).expect("a value"))
        };
        set(TIMESTAMP_HEADER, time.to_string());
        set(SIGNATURE_HEADER, format!("v1={}", crate::signer::hex(signature.as_ref())));
        headers
    }

    #[test]
    fn a_signature_is_good_for_its_body_and_five_minutes() {
        let (hooks, now) = (webhooks(), NOW.seconds());
        for (away, good) in [(0, true), (-300, true), (300, true), (-301, false), (301, false)] {
            assert_eq!(hooks.signer(&headers(now + away, b"{}"), b"{}", NOW).is_ok(), good, "{away}");
        }
        let refused = |headers: &HeaderMap, body: &[u8]| {
            matches!(hooks.signer(headers, body, NOW), Err(Failure::Unauthenticated))
        };
        assert!(refused(&headers(now, b"{}"), b"{ }"));
        assert!(refused(&HeaderMap::new(), b"{}"));
        let mut other = headers(now, b"{}");
        other.insert(TIMESTAMP_HEADER, HeaderValue::from(now + 1));
        assert!(refused(&other, b"{}"), "the time is signed as well");
        let mut twice = headers(now, b"{}");
        twice.append(TIMESTAMP_HEADER, HeaderValue::from(now));
        assert!(refused(&twice, b"{}"));
    }
}
