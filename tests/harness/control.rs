//! A fake control service: keeps generations in memory and answers the routes of the real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Response;
use parking_lot::Mutex;
use rustls::ServerConfig;
use serde::Serialize;
use serde_json::{Value, json};
use sideguard_policy::source::{self, Severity, Source};
use sideguard_types::control::{
    Action, Applied, Apply, Change, Enrolled, Feed, Generation, Kill, Kills, Name, Object, Page, Problem,
    Scope, Sidecar, Signed, Token,
};
use sideguard_types::time::Timestamp;

use crate::fake::{Body, Fake, Seen, whole};

/// The key that it takes.
pub const KEY: &str = "operator-key";
/// When it began: every later change is a second later.
const START: i64 = 1_795_773_600_000_000;
/// Items on a page: few, so that there are several.
const PAGE: usize = 2;

/// A fake control service.
pub struct Control {
    fake: Fake,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    generations: Vec<(Generation, Objects)>,
    kills: Vec<Kill>,
    sidecars: Vec<Sidecar>,
}

type Objects = BTreeMap<Name, Object>;
type Answer = Result<Value, Problem>;

impl Control {
    /// Starts one without objects, over TLS when a configuration is given.
    pub async fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let own = Arc::clone(&state);
        let fake = Fake::start(tls, move |seen| {
            let answer = own.lock().answer(seen);
            reply(seen, answer)
        });
        Self { fake: fake.await, state }
    }

    /// Where it is, over plain HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        self.fake.url()
    }

    /// Its requests and address.
    #[must_use]
    pub const fn fake(&self) -> &Fake {
        &self.fake
    }

    /// Sets the sidecars that it knows of.
    pub fn set_sidecars(&self, sidecars: Vec<Sidecar>) {
        self.state.lock().sidecars = sidecars;
    }

    /// The kill switches that are on.
    #[must_use]
    pub fn kills(&self) -> Vec<Scope> {
        self.state.lock().kills.iter().map(|kill| kill.scope.clone()).collect()
    }
}

fn reply(seen: &Seen, answer: Answer) -> Response<Body> {
    let (status, kind, body) = match answer {
        Ok(Value::Null) if seen.target != "/v1/report" => (204, "application/json", Vec::new()),
        Ok(value) => (200, "application/json", value.to_string().into_bytes()),
        Err(problem) => {
            (problem.status, "application/problem+json", serde_json::to_vec(&problem).expect("a problem"))
        }
    };
    Response::builder().status(status).header("content-type", kind).body(whole(body)).expect("a reply")
}

fn problem(status: u16, code: &str, detail: &str) -> Problem {
    Problem { status, code: code.to_owned(), detail: detail.to_owned(), findings: Vec::new() }
}

fn value(of: impl Serialize) -> Answer {
    Ok(serde_json::to_value(of).expect("a value"))
}

fn read<T: serde::de::DeserializeOwned>(seen: &Seen) -> Result<T, Problem> {
    serde_json::from_slice(&seen.body).map_err(|error| problem(400, "invalid", &error.to_string()))
}

fn page<T: Serialize>(all: Vec<T>, query: &BTreeMap<String, String>) -> Answer {
    let from = query.get("after").map_or(0, |after| after.parse().expect("a number"));
    let more = all.len() > from + PAGE;
    let items: Vec<T> = all.into_iter().skip(from).take(PAGE).collect();
    value(Page { items, next: more.then(|| (from + PAGE).to_string()) })
}

/// Parts of a path, and the query.
fn parts(target: &str) -> (Vec<&str>, BTreeMap<String, String>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let plain = |text: &str| text.replace("%2F", "/").replace("%3D", "=").replace("%2C", ",");
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (name.to_owned(), plain(value))).collect();
    (path.trim_start_matches("/v1/").split('/').collect(), query)
}

impl State {
    fn answer(&mut self, seen: &Seen) -> Answer {
        let (path, query) = parts(&seen.target);
        let key = seen.headers.get("authorization").and_then(|key| key.to_str().ok());
        if path != ["enrol"] && key != Some("Bearer operator-key") {
            return Err(problem(401, "unauthenticated", "a key is needed"));
        }
        match (seen.method.as_str(), path.as_slice()) {
            ("POST", ["apply"]) => self.apply(&read(seen)?),
            ("POST", ["delete"]) => self.delete(&read::<Value>(seen)?),
            ("POST", ["rollback"]) => self.rollback(&read::<Value>(seen)?),
            ("GET", ["generations"]) => {
                page(self.generations.iter().rev().map(|(one, _)| one).collect(), &query)
            }
            ("GET", ["generations", number]) => {
                let found = self.generations.iter().find(|(one, _)| one.number.to_string() == *number);
                found.map_or_else(|| Err(missing()), |(one, _)| value(one))
            }
            ("GET", ["objects"]) => page(self.objects(&query), &query),
            ("GET", ["objects", tenant, kind, name]) => {
                let objects = self.generations.last().map(|(_, objects)| objects.values());
                let fits = |one: &&Object| {
                    (&*one.name.tenant, &*one.name.kind, &*one.name.name) == (*tenant, *kind, *name)
                };
                objects.into_iter().flatten().find(fits).map_or_else(|| Err(missing()), value)
            }
            ("GET", ["sidecars"]) => {
                let tenant = query.get("tenant");
                let fits = |one: &&Sidecar| tenant.is_none_or(|tenant| *tenant == one.tenant);
                page(self.sidecars.iter().filter(fits).collect(), &query)
            }
            ("GET", ["kills"]) => page(self.kills.iter().collect(), &query),
            ("POST", ["kills"]) => self.kill(&read::<Value>(seen)?),
            ("DELETE", ["kills"]) => {
                let scope = Scope::parse(&query["scope"]).expect("a scope");
                let before = self.kills.len();
                self.kills.retain(|kill| kill.scope != scope);
                if self.kills.len() == before { Err(missing()) } else { Ok(Value::Null) }
            }
            ("POST", ["tokens"]) => {
                let asked: Value = read(seen)?;
                let seconds = i64::try_from(asked["seconds"].as_u64().unwrap_or(3_600)).expect("a span");
                let named = format!(
                    "sgt_{}_{}",
                    asked["tenant"].as_str().unwrap_or("default"),
                    asked["agent"].as_str().unwrap_or("any")
                );
                value(Token { token: named, expires: Timestamp(START + seconds * 1_000_000) })
            }
            ("POST", ["enrol"]) => value(Enrolled {
                key: KEY.to_owned(),
                tenant: "acme".to_owned(),
                agent: None,
                signer: "00".to_owned(),
                renew: None,
            }),
            ("GET", ["feed"]) => value(self.feed(&query)),
            // As a service that is not sure of what is in force.
            ("POST", ["report"]) => value(None::<Value>),
            _ => Err(missing()),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(START + 1_000_000 * i64::try_from(self.generations.len()).expect("a count"))
    }

    fn present(&self) -> Objects {
        self.generations.last().map(|(_, objects)| objects.clone()).unwrap_or_default()
    }

    fn objects(&self, query: &BTreeMap<String, String>) -> Vec<Object> {
        let labels: Vec<(&str, &str)> = query
            .get("labels")
            .into_iter()
            .flat_map(|all| all.split(','))
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let fits = |one: &Object| {
            query.get("kind").is_none_or(|kind| *kind == one.name.kind)
                && query.get("tenant").is_none_or(|tenant| *tenant == one.name.tenant)
                && labels.iter().all(|(key, value)| one.labels.get(*key).is_some_and(|own| own == value))
        };
        self.present().into_values().filter(fits).collect()
    }

    fn apply(&mut self, apply: &Apply) -> Answer {
        let number = self.generations.last().map_or(0, |(one, _)| one.number);
        if apply.expect.is_some_and(|expect| expect != number) {
            return Err(problem(409, "conflict", &format!("the generation in force is {number}")));
        }
        let given = given(apply, number + 1)?;
        let mut next = self.present();
        if let Some(prune) = &apply.prune {
            next.retain(|name, one| {
                given.contains_key(name)
                    || !prune.iter().all(|(key, value)| one.labels.get(key) == Some(value))
            });
        }
        for (name, object) in given {
            match next.get(&name) {
                Some(before) if before.text == object.text => {}
                _ => drop(next.insert(name, object)),
            }
        }
        self.change(next, "apply", apply.dry_run)
    }

    fn delete(&mut self, asked: &Value) -> Answer {
        let names: Vec<Name> = serde_json::from_value(asked["names"].clone()).expect("names");
        let mut next = self.present();
        for name in &names {
            next.remove(name).ok_or_else(missing)?;
        }
        self.change(next, "delete", false)
    }

    fn rollback(&mut self, asked: &Value) -> Answer {
        let found = self.generations.iter().find(|(one, _)| Some(one.number) == asked["to"].as_u64());
        let next = found.map(|(_, objects)| objects.clone()).ok_or_else(missing)?;
        self.change(next, "rollback", false)
    }

    fn change(&mut self, next: Objects, verb: &str, dry: bool) -> Answer {
        let before = self.present();
        let names: std::collections::BTreeSet<&Name> = before.keys().chain(next.keys()).collect();
        let change = |name: &&Name| {
            let (old, new) =
                (before.get(*name).map(|one| one.text.clone()), next.get(*name).map(|one| one.text.clone()));
            let action = match (&old, &new) {
                (None, _) => Action::Created,
                (_, None) => Action::Deleted,
                (old, new) if old == new => Action::Unchanged,
                _ => Action::Updated,
            };
            Change { action, name: (*name).clone(), before: old, after: new }
        };
        let changes: Vec<Change> = names.iter().map(change).collect();
        let changed: Vec<String> = changes
            .iter()
            .filter(|change| change.action != Action::Unchanged)
            .map(|change| format!("{}/{} {}", change.name.kind, change.name.name, change.action.as_str()))
            .collect();
        if !changed.is_empty() && !dry {
            let number = self.generations.last().map_or(0, |(one, _)| one.number) + 1;
            let generation = Generation {
                number,
                digest: format!("sha256:{number:08x}"),
                time: self.now(),
                by: "operator".to_owned(),
                verb: verb.to_owned(),
                objects: next.len() as u64,
                summary: changed,
            };
            self.generations.push((generation, next));
        }
        let (generation, digest) =
            self.generations.last().map(|(one, _)| (one.number, one.digest.clone())).unwrap_or_default();
        value(Applied { generation, digest, changes, warnings: Vec::new() })
    }

    fn kill(&mut self, asked: &Value) -> Answer {
        let scope = asked["scope"].as_str().and_then(Scope::parse).expect("a scope");
        let reason = asked["reason"].as_str().unwrap_or_default().to_owned();
        let kill = Kill { scope, reason, by: "operator".to_owned(), owner: true, time: self.now() };
        self.kills.push(kill.clone());
        value(kill)
    }

    fn feed(&self, query: &BTreeMap<String, String>) -> Feed {
        let newer = self.generations.last().filter(|(one, _)| one.number.to_string() != query["generation"]);
        let signed = newer.map(|(one, _)| Signed {
            tenant: "acme".to_owned(),
            number: one.number,
            time: one.time,
            documents: Vec::new(),
            signature: String::new(),
        });
        let scopes = self.kills.iter().map(|kill| kill.scope.clone()).collect();
        let kills = Kills { number: self.kills.len() as u64, scopes, ..Kills::default() };
        Feed { generation: signed, kills: Some(kills), beat: None }
    }
}

fn missing() -> Problem {
    problem(404, "not_found", "there is no such thing")
}

fn given(apply: &Apply, generation: u64) -> Result<Objects, Problem> {
    let mut objects = Objects::new();
    let mut findings = Vec::new();
    for whole in &apply.documents {
        for text in whole.text.split("---\n").filter(|text| !text.trim().is_empty()) {
            let loaded = source::load(&[Source::new(&whole.name, text)]);
            let errors = loaded.findings.iter().filter(|finding| finding.severity == Severity::Error);
            findings.extend(errors.map(ToString::to_string));
            for document in &loaded.documents {
                let kind = document.resource.spec.kind();
                let metadata = &document.resource.metadata;
                let name = Name {
                    tenant: document.tenant().to_owned(),
                    kind: kind.to_owned(),
                    name: metadata.name.clone(),
                };
                let labels = metadata.labels.clone();
                objects.insert(name.clone(), Object { name, labels, generation, text: text.to_owned() });
            }
        }
    }
    if findings.is_empty() {
        return Ok(objects);
    }
    let detail = "the resulting set of objects is not valid: nothing has changed";
    Err(Problem { findings, ..problem(422, "findings", detail) })
}

/// A sidecar as control knows it, in the given words.
///
/// # Panics
/// When they are none.
#[must_use]
pub fn sidecar(words: &Value) -> Sidecar {
    let mut whole = json!({
        "tenant": "acme", "standing": "current", "seen": "2026-11-27T10:00:00Z", "agents": [], "version": "0.1.0",
        "generation": 1, "digest": "sha256:1", "ready": true, "calls": 12, "denied": 3,
    });
    for (name, value) in words.as_object().expect("words") {
        whole[name] = value.clone();
    }
    serde_json::from_value(whole).expect("a sidecar")
}
