//! Whose a service account's token is, by the API server's word (`authentication.k8s.io/v1` TokenReview).
//!
//! A projected token names its audience: one that was made for another service says nothing here. Answers are believed for a
//! short time, so that pods that start together do not each ask; a token whose pod is gone is refused after that.

use std::collections::HashMap;
use std::time::Duration;

use kube::api::{Api, DynamicObject, PostParams};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sideguard_runtime::clock::Stopwatch;
use tokio::sync::Semaphore;

use crate::connect::{AskError, Cluster, resource, within_time};

/// How long a token that is good counts as such.
const LIFE: Duration = Duration::from_secs(30);
/// How long one that is not does.
const LIFE_REFUSED: Duration = Duration::from_secs(5);
/// Most answers that are remembered; then all are asked for anew.
const MOST: usize = 4_096;
/// Questions under way at once.
const AT_ONCE: usize = 16;
/// Longest token.
const LONGEST: usize = 16 << 10;
/// What users who are service accounts begin with.
const ACCOUNT: &str = "system:serviceaccount:";

/// A service account, and the pod that its token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The pod; none for a token that is bound to none.
    pub pod: Option<Pod>,
}

/// A pod as a token names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Name.
    pub name: String,
    /// Uid: a later pod of the same name has another one.
    pub uid: String,
}

/// Why a token says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The API server does not know it, or not for this audience.
    #[error("the token is not good: {0}")]
    Refused(String),
    /// The API server cannot be asked.
    #[error("{0}")]
    Away(#[from] AskError),
    /// Too many ask.
    #[error("too many tokens are being looked at")]
    Busy,
}

/// What was said of a token, and when it was asked.
type Answer = (Stopwatch, Result<Account, String>);

/// Reviews of tokens for one audience.
pub struct Reviews {
    api: Api<DynamicObject>,
    audience: String,
    known: Mutex<HashMap<[u8; 32], Answer>>,
    places: Semaphore,
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// Whether a text has the form of a service account's token: a JSON Web Token in its compact form (RFC 7519).
#[must_use]
pub fn is_plausible(token: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    token.len() <= LONGEST && token.split('.').count() == 3 && token.split('.').all(part)
}

impl Reviews {
    /// Reviews by a cluster's API server.
    #[must_use]
    pub fn new(cluster: &Cluster, audience: &str) -> Self {
        let reviews = resource("authentication.k8s.io", "v1", "TokenReview", "tokenreviews");
        Self {
            api: cluster.everywhere(&reviews),
            audience: audience.to_owned(),
            known: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// Whose a token is.
    ///
    /// # Errors
    /// When it is nobody's, or not for this audience, or when that cannot be found out now.
    pub async fn whose(&self, token: &str) -> Result<Account, ReviewError> {
        if !is_plausible(token) {
            return Err(ReviewError::Refused("it is no token of a service account".to_owned()));
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.remembered(&hash) {
            return known.map_err(ReviewError::Refused);
        }
        let _place = self.places.try_acquire().map_err(|_| ReviewError::Busy)?;
        // From before the question: the answer may be as old as that.
        let asked = Stopwatch::start();
        let found = self.ask(token).await?;
        let mut known = self.known.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(hash, (asked, found.clone()));
        drop(known);
        found.map_err(ReviewError::Refused)
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Result<Account, String>> {
        let known = self.known.lock();
        let (since, found) = known.get(hash)?;
        let life = if found.is_ok() { LIFE } else { LIFE_REFUSED };
        (since.elapsed() < life).then(|| found.clone())
    }

    async fn ask(&self, token: &str) -> Result<Result<Account, String>, AskError> {
        let unfit = |error| AskError::Refused(kube::Error::SerdeError(error));
        let review: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": { "token": token, "audiences": [self.audience] },
        }))
        .map_err(unfit)?;
        let answer = within_time(self.api.create(&PostParams::default(), &review)).await?;
        Ok(account(&answer.data["status"], &self.audience))
    }
}

/// The service account that a review's status tells of.
fn account(status: &Value, audience: &str) -> Result<Account, String> {
    if status["authenticated"] != true {
        return Err(status["error"].as_str().unwrap_or("the API server does not know it").to_owned());
    }
    // A server that knows nothing of audiences leaves the list out: then the token may be for anybody.
    let audiences = status["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !audiences.iter().any(|one| one == audience) {
        return Err(format!("it is not for `{audience}`"));
    }
    let user = &status["user"];
    let account = user["username"].as_str().and_then(|name| name.strip_prefix(ACCOUNT));
    let Some((namespace, name)) = account.and_then(|account| account.split_once(':')) else {
        return Err("it is not a service account's".to_owned());
    };
    if namespace.is_empty() || name.is_empty() || name.contains(':') {
        return Err("it is not a service account's".to_owned());
    }
    let extra = |key: &str| {
        let values = user["extra"][format!("authentication.kubernetes.io/{key}")].as_array();
        values.and_then(|values| values.first()).and_then(Value::as_str).map(str::to_owned)
    };
    let pod = extra("pod-name").zip(extra("pod-uid")).map(|(name, uid)| Pod { name, uid });
    Ok(Account { namespace: namespace.to_owned(), name: name.to_owned(), pod })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Account, Pod, account, is_plausible};

    fn status() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["sideguard-control"],
            "user": {
                "username": "system:serviceaccount:team:reader",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["reader-1"],
                    "authentication.kubernetes.io/pod-uid": ["u"],
                },
            },
        })
    }

    #[test]
    fn only_a_service_accounts_token_for_this_audience_counts() {
        let pod = Some(Pod { name: "reader-1".to_owned(), uid: "u".to_owned() });
        let whose = Account { namespace: "team".to_owned(), name: "reader".to_owned(), pod };
        assert_eq!(account(&status(), "sideguard-control"), Ok(whose));
        for (pointer, value) in [
            ("/authenticated", json!(false)),
            ("/authenticated", json!("true")),
            ("/audiences", json!(["https://kubernetes.default.svc"])),
            ("/audiences", json!([])),
            ("/audiences", Value::Null),
            ("/user/username", json!("admin")),
            ("/user/username", json!("system:serviceaccount:team")),
            ("/user/username", json!("system:serviceaccount:team:")),
            ("/user/username", json!("system:serviceaccount:team:a:b")),
            ("/user", Value::Null),
        ] {
            let mut other = status();
            *other.pointer_mut(pointer).expect("a place") = value;
            assert!(account(&other, "sideguard-control").is_err(), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_not_asked_about() {
        assert!(is_plausible("a.b-_.c9"));
        for token in ["", "sgt_00", "a.b", "a..c", "a.b.c.d", "a.b.c\n", &"a.b.".repeat(20_000)] {
            assert!(!is_plausible(token), "{token:.20}");
        }
    }
}
