//! What there is of a kind, as rows of a table.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sideguard_client::{Client, Objects};
use sideguard_types::control::jobs::Worker;
use sideguard_types::control::sinks::SinkState;
use sideguard_types::control::{Generation, Kill, Name, Object, Scope, Sidecar, Standing};
use sideguard_types::units::MicroUsd;

use super::kind::Kind;
use super::object;
use super::output::moment;
use super::{FOUND, Failure, Outcome};

/// Most generations of a listing, the newest.
const GENERATIONS: usize = 1_000;

/// Which things.
#[derive(Debug, Default, Clone)]
pub(crate) struct Which {
    /// One of this name.
    pub(crate) name: Option<String>,
    /// Of this tenant.
    pub(crate) tenant: Option<String>,
    /// With these labels.
    pub(crate) labels: BTreeMap<String, String>,
}

/// One thing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// What it is known by.
    pub(crate) key: String,
    /// Another one of these means that it has changed; what changes all the time is not in it.
    pub(crate) mark: String,
    /// Its name, tenant apart.
    name: String,
    tenant: Option<String>,
    /// Columns, the ones of wide tables last.
    pub(crate) cells: Vec<String>,
    /// All that is known of it.
    pub(crate) item: Value,
}

/// Headings, and how many of them a table has that is not wide.
pub(crate) const fn head(kind: Kind) -> (&'static [&'static str], usize) {
    match kind {
        Kind::Policy => (&["TENANT", "NAME", "RULES", "DEFAULT", "GENERATION", "LABELS"], 5),
        Kind::Budget => (&["TENANT", "NAME", "LIMITS", "GENERATION", "LABELS"], 4),
        Kind::ToolCatalog => (&["TENANT", "NAME", "TOOLS", "GENERATION", "LABELS"], 4),
        Kind::Upstream => (&["TENANT", "NAME", "URL", "GENERATION", "LABELS"], 4),
        Kind::WorkerPool => (&["TENANT", "NAME", "TOPICS", "REASSIGN", "GENERATION", "LABELS"], 5),
        Kind::Workflow => (&["TENANT", "NAME", "STEPS", "INPUT", "GENERATION", "LABELS"], 5),
        Kind::Agent => (&["TENANT", "NAME", "STANDING", "SIDECARS", "GENERATION", "REFUSED", "LABELS"], 5),
        Kind::Sink => (
            &[
                "TENANT",
                "NAME",
                "TO",
                "DELIVERED",
                "WAITING",
                "ERROR",
                "LAST",
                "FILTERED",
                "SKIPPED",
                "HOLDER",
            ],
            6,
        ),
        Kind::Worker => (
            &["TENANT", "ID", "AGENT", "HEALTH", "JOBS", "ROOM", "POOLS", "SEEN", "CAPABILITIES", "LABELS"],
            8,
        ),
        Kind::Sidecar => (
            &[
                "TENANT",
                "ID",
                "AGENTS",
                "STANDING",
                "GENERATION",
                "READY",
                "CALLS",
                "DENIED",
                "SEEN",
                "VERSION",
                "REFUSED",
                "BREAKERS",
                "DIGEST",
                "TOKENS",
                "COST",
            ],
            9,
        ),
        Kind::Generation => (&["NUMBER", "TIME", "BY", "VERB", "OBJECTS", "CHANGES", "DIGEST"], 6),
        Kind::Kill => (&["SCOPE", "BY", "TIME", "REASON"], 4),
        Kind::Delegation => (&["TENANT", "ID", "AGENTS", "SINCE", "EXPIRES", "SIDECAR", "LINKS"], 5),
    }
}

/// Everything of a kind that fits, in order.
pub(crate) async fn rows(client: &Client, kind: Kind, which: &Which) -> Outcome<Vec<Row>> {
    let mut rows: Vec<Row> = match kind {
        Kind::Worker => client.workers(which.tenant.as_deref()).await?.iter().map(worker).collect(),
        Kind::Sidecar => client.sidecars(which.tenant.as_deref()).await?.iter().map(sidecar).collect(),
        Kind::Generation => client.newest_generations(GENERATIONS).await?.iter().map(generation).collect(),
        Kind::Kill => client.kills().await?.iter().map(kill).collect(),
        Kind::Delegation => {
            client.sidecars(which.tenant.as_deref()).await?.iter().flat_map(delegations).collect()
        }
        Kind::Agent => agents(client, which).await?,
        Kind::Sink => sinks(client, which).await?,
        Kind::Policy
        | Kind::Budget
        | Kind::ToolCatalog
        | Kind::Upstream
        | Kind::WorkerPool
        | Kind::Workflow => objects(client, kind, which).await?.iter().map(applied).collect(),
    };
    // A scope has a short form as well.
    let scope = which.name.as_deref().filter(|_| kind == Kind::Kill).and_then(Scope::parse);
    let wanted = scope.map(|scope| scope.to_string()).or_else(|| which.name.clone());
    rows.retain(|row| {
        let named = wanted.as_ref().is_none_or(|name| *name == row.name);
        named
            && which.tenant.as_ref().is_none_or(|tenant| row.tenant.as_ref().is_none_or(|own| own == tenant))
    });
    Ok(rows)
}

/// The one thing that is named, or an error.
pub(crate) fn one(kind: Kind, which: &Which, rows: &[Row]) -> Outcome {
    let Some(name) = &which.name else { return Ok(()) };
    if !rows.is_empty() {
        return Ok(());
    }
    let failure = Failure::new(FOUND, format!("there is no {} `{name}`", kind.as_str()));
    Err(failure.hint(format!("`sideguard get {}` shows all of them", kind.as_str().to_ascii_lowercase())))
}

async fn objects(client: &Client, kind: Kind, which: &Which) -> Outcome<Vec<Object>> {
    let asked = Objects {
        kind: Some(kind.as_str().to_owned()),
        tenant: which.tenant.clone(),
        labels: which.labels.clone(),
    };
    Ok(client.all_objects(&asked).await?)
}

fn row(name: &str, tenant: Option<&str>, cells: Vec<String>, item: Value) -> Row {
    let key = format!("{}/{name}", tenant.unwrap_or_default());
    let mark = cells.join("\0");
    Row { key, mark, name: name.to_owned(), tenant: tenant.map(str::to_owned), cells, item }
}

/// An object of a kind that only control knows of.
fn applied(object: &Object) -> Row {
    let item = object::structured(object);
    let spec = &item["spec"];
    let count = |list: &Value| list.as_array().map_or(0, Vec::len).to_string();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let own = match object.name.kind.as_str() {
        "Policy" => vec![count(&spec["rules"]), text(&spec["default_decision"])],
        "Budget" => vec![limits(&spec["limits"])],
        "ToolCatalog" => vec![count(&spec["tools"])],
        "Workflow" => {
            let inputs: Vec<&str> =
                spec["input"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            vec![count(&spec["steps"]), inputs.join(",")]
        }
        "WorkerPool" => {
            let topics = spec["topics"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let reassign = spec["reassign"].as_str().unwrap_or("idempotent");
            vec![topics.collect::<Vec<_>>().join(","), reassign.to_owned()]
        }
        _ => vec![text(&spec["baseUrl"])],
    };
    let mut cells = vec![object.name.tenant.clone(), object.name.name.clone()];
    cells.extend(own);
    cells.extend([object.generation.to_string(), object::labels(&object.labels)]);
    row(&object.name.name, Some(&object.name.tenant), cells, item)
}

/// A worker, as it was heard of last.
fn worker(worker: &Worker) -> Row {
    let Worker { id, tenant, health, seen, draining, jobs, skills } = worker;
    let health =
        if *draining { format!("{} (draining)", health.as_str()) } else { health.as_str().to_owned() };
    let cells = vec![
        tenant.clone(),
        id.clone(),
        skills.agent.clone(),
        health,
        jobs.len().to_string(),
        skills.max_parallel.to_string(),
        skills.pools.join(","),
        moment(*seen),
        skills.capabilities.join(","),
        object::labels(&skills.labels),
    ];
    row(id, Some(tenant), cells, json!(worker))
}

/// Sinks, as they were applied and as they stand.
async fn sinks(client: &Client, which: &Which) -> Outcome<Vec<Row>> {
    let states = client.sinks().await?;
    let row = |object: &Object| {
        let Name { tenant, name, .. } = &object.name;
        let of = |state: &&SinkState| {
            state.name == *name && state.tenant.as_deref().unwrap_or("default") == tenant
        };
        let state = states.iter().find(of);
        let mut item = object::structured(object);
        item["status"] = json!(state);
        let told = |cell: fn(&SinkState) -> String| state.map_or_else(|| "-".to_owned(), cell);
        let cells = vec![
            tenant.clone(),
            name.clone(),
            told(|state| state.to.clone()),
            told(|state| state.delivered.to_string()),
            told(|state| state.waiting.to_string()),
            told(|state| state.error.clone().unwrap_or_default()),
            told(|state| state.last.map_or_else(|| "never".to_owned(), moment)),
            told(|state| state.filtered.to_string()),
            told(|state| state.skipped.to_string()),
            told(|state| state.holder.clone().unwrap_or_default()),
        ];
        self::row(name, Some(tenant), cells, item)
    };
    Ok(objects(client, Kind::Sink, which).await?.iter().map(row).collect())
}

/// `100000 tokens/1d, 20 usd/month`.
fn limits(list: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let limit = |limit: &Value| {
        let window = limit.get("window").map(|window| format!("/{}", plain(window))).unwrap_or_default();
        format!("{} {}{window}", plain(&limit["amount"]), plain(&limit["unit"]))
    };
    list.as_array().into_iter().flatten().map(limit).collect::<Vec<_>>().join(", ")
}

/// Agents: those that have an object, and those that a sidecar speaks for.
async fn agents(client: &Client, which: &Which) -> Outcome<Vec<Row>> {
    let sidecars = client.sidecars(which.tenant.as_deref()).await?;
    let mut agents: BTreeMap<(String, String), Option<Object>> = BTreeMap::new();
    if which.labels.is_empty() {
        let told = |sidecar: &Sidecar| {
            let tenant = sidecar.tenant.clone();
            sidecar
                .report
                .agents
                .iter()
                .map(move |agent| ((tenant.clone(), agent.clone()), None))
                .collect::<Vec<_>>()
        };
        agents.extend(sidecars.iter().flat_map(told));
    }
    for object in objects(client, Kind::Agent, which).await? {
        agents.insert((object.name.tenant.clone(), object.name.name.clone()), Some(object));
    }
    let row = |((tenant, name), object): ((String, String), Option<Object>)| {
        agent(&tenant, &name, object.as_ref(), &sidecars)
    };
    Ok(agents.into_iter().map(row).collect())
}

/// The sidecars that speak for an agent.
pub(crate) fn speakers<'a>(
    sidecars: &'a [Sidecar],
    tenant: &'a str,
    agent: &'a str,
) -> impl Iterator<Item = &'a Sidecar> + Clone {
    let speaks = move |sidecar: &&Sidecar| {
        sidecar.tenant == tenant && sidecar.report.agents.iter().any(|own| own == agent)
    };
    sidecars.iter().filter(speaks)
}

/// The worst of its sidecars' standings is an agent's.
const fn badness(standing: Standing) -> u8 {
    match standing {
        Standing::Current => 0,
        Standing::Stale => 1,
        Standing::Lost => 2,
        Standing::Refused => 3,
    }
}

fn agent(tenant: &str, name: &str, object: Option<&Object>, sidecars: &[Sidecar]) -> Row {
    let own = speakers(sidecars, tenant, name);
    let standing = own.clone().map(|sidecar| sidecar.standing).max_by_key(|standing| badness(*standing));
    let standing = standing.map_or("none", Standing::as_str);
    let oldest = own.clone().map(|sidecar| sidecar.report.generation).min();
    let why = own.clone().find_map(|sidecar| sidecar.report.refused.as_ref());
    let cells = vec![
        tenant.to_owned(),
        name.to_owned(),
        standing.to_owned(),
        own.clone().count().to_string(),
        oldest.map_or("-".to_owned(), |oldest| oldest.to_string()),
        why.map(|why| why.reason.clone()).unwrap_or_default(),
        object.map(|object| object::labels(&object.labels)).unwrap_or_default(),
    ];
    let mut item = object.map_or_else(
        || json!({ "kind": "Agent", "metadata": { "name": name, "tenant": tenant } }),
        object::structured,
    );
    let ids: Vec<&str> = own.map(|sidecar| sidecar.id.as_str()).collect();
    item["status"] = json!({ "standing": standing, "generation": oldest, "sidecars": ids });
    row(name, Some(tenant), cells, item)
}

fn sidecar(sidecar: &Sidecar) -> Row {
    let report = &sidecar.report;
    let refused = report.refused.as_ref();
    let steady = [
        sidecar.tenant.clone(),
        sidecar.id.clone(),
        report.agents.join(","),
        sidecar.standing.as_str().to_owned(),
        report.generation.to_string(),
        if report.ready { "yes" } else { "no" }.to_owned(),
    ];
    let counted = [report.calls.to_string(), report.denied.to_string(), moment(sidecar.seen)];
    let wide = [
        report.version.clone(),
        refused.map(|refused| format!("{}: {}", refused.generation, refused.reason)).unwrap_or_default(),
        report.breakers.join(", "),
        report.digest.clone(),
    ];
    let spent = [report.tokens.to_string(), format!("${}", MicroUsd(report.cost))];
    let mark = format!("{}\0{}", steady.join("\0"), wide.join("\0"));
    let cells = [steady.to_vec(), counted.to_vec(), wide.to_vec(), spent.to_vec()].concat();
    Row { mark, ..row(&sidecar.id, Some(&sidecar.tenant), cells, json!(sidecar)) }
}

fn generation(generation: &Generation) -> Row {
    let cells = vec![
        generation.number.to_string(),
        moment(generation.time),
        generation.by.clone(),
        generation.verb.clone(),
        generation.objects.to_string(),
        generation.summary.len().to_string(),
        generation.digest.clone(),
    ];
    row(&generation.number.to_string(), None, cells, json!(generation))
}

/// What agents work on for others, as their sidecar told.
fn delegations(sidecar: &Sidecar) -> impl Iterator<Item = Row> {
    sidecar.report.delegations.iter().map(|open| {
        let cells = vec![
            sidecar.tenant.clone(),
            open.id.clone(),
            open.agents.join(" → "),
            moment(open.since),
            moment(open.expires),
            sidecar.id.clone(),
            open.links.join(" "),
        ];
        let mut item = json!(open);
        item["tenant"] = json!(sidecar.tenant);
        item["sidecar"] = json!(sidecar.id);
        row(&open.id, Some(&sidecar.tenant), cells, item)
    })
}

fn kill(kill: &Kill) -> Row {
    let scope = kill.scope.to_string();
    let cells = vec![scope.clone(), kill.by.clone(), moment(kill.time), kill.reason.clone()];
    row(&scope, None, cells, json!(kill))
}
