//! Approvals: requests that sidecars hold until people have said yes. The held request is kept as it would be sent; the
//! grant is bound to it, to the agent with its chain, and to the policy set that asked, and is used up by one call.
//!
//! Each approval is one document, changed by compare-and-set alone, so that it does not matter how many replicas and
//! sidecars are at it. [`state`] says what may become of one.

mod events;
mod look;
mod place;
mod state;
mod webhooks;

use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sideguard_runtime::{clock, id};
use sideguard_store::documents::{Change, Edit, Expect, Revision};
use sideguard_store::key::{Key, Prefix};
use sideguard_store::{Store, StoreError};
use sideguard_types::control::approvals::{Answer, Approval, Ask, Held, Redeem, Standing, State};
use sideguard_types::time::Timestamp;

use crate::error::Failure;
use crate::keys::{OWN, Principal, Role, own_key};

use events::event;
use place::{at, held_at, index_at, missing, open_at, short, turned};
use state::Same;

pub(crate) use look::{list, whole};
pub(crate) use webhooks::Webhooks;

/// How long an approval is kept after it was asked for; longer than it can be open, good and denied together.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Most that are open in a tenant.
const OPEN: usize = 500;
/// Most that are open for one agent.
const OPEN_OF_AGENT: usize = 50;
/// Most bytes of a held body in base64: 512 KiB of body.
const BODY: usize = 700 << 10;
/// Most bytes of any other text.
const TEXT: usize = 8 << 10;
/// Most headers, links of a chain, roles and approvers.
const SEVERAL: usize = 100;
/// Largest arguments and constraints of a held request, as JSON, in bytes.
const ARGUMENTS: usize = 768 << 10;
const CONSTRAINTS: usize = 64 << 10;
/// Longest arguments that a listing shows, in bytes of JSON.
const SHOWN: usize = 4 << 10;
/// How often a document is tried again that others change at the same time.
const TRIES: usize = 64;
/// How often the store is looked at while a sidecar waits, should a notice have been lost.
const LOOK: Duration = Duration::from_secs(2);

fn bytes(value: &impl Serialize) -> Result<bytes::Bytes, Failure> {
    serde_json::to_vec(value).map(Into::into).map_err(|error| Failure::Invalid(error.to_string()))
}

async fn read<T: for<'de> Deserialize<'de>>(
    store: &Store,
    now: Timestamp,
    key: &Key,
) -> Result<Option<(T, Revision)>, Failure> {
    let Some(document) = store.documents.get(now, key).await? else { return Ok(None) };
    let value = serde_json::from_slice(&document.value).map_err(|_| Failure::Broken(key.to_string()))?;
    Ok(Some((value, document.revision)))
}

/// One approval as it is at `now`, with the revision of its document.
async fn one(
    store: &Store,
    now: Timestamp,
    tenant: &str,
    id: &str,
) -> Result<Option<(Approval, Revision)>, Failure> {
    let found = read::<Approval>(store, now, &at(tenant, id)?).await?;
    Ok(found.map(|(mut approval, revision)| {
        state::lapse(&mut approval, now);
        (approval, revision)
    }))
}

/// Whose approval an id is of, if the principal may know.
async fn tenant_of(store: &Store, now: Timestamp, who: &Principal, id: &str) -> Result<String, Failure> {
    turned(id)?;
    let found = read::<String>(store, now, &own_key(&format!("approvals-ids/{id}"))?).await?;
    found.map(|(tenant, _)| tenant).filter(|tenant| who.reaches(tenant)).ok_or_else(|| missing(id))
}

/// The tenant that a sidecar asks for.
fn own_tenant(sidecar: &Principal) -> &str {
    sidecar.tenant.as_deref().unwrap_or("default")
}

/// A sidecar asks: it is told how the identical request stands that was asked about before, or that a new one is pending.
pub(crate) async fn ask(
    store: &Store,
    webhooks: &Webhooks,
    now: Timestamp,
    sidecar: &Principal,
    ask: Ask,
) -> Result<Standing, Failure> {
    check(&ask)?;
    sidecar.speaks_for(&ask.agent)?;
    let tenant = own_tenant(sidecar);
    let index = index_at(tenant, &ask)?;
    for _ in 0..TRIES {
        let known = read::<String>(store, now, &index).await?;
        let before = match &known {
            Some((id, _)) => one(store, now, tenant, id).await?,
            None => None,
        };
        let mut edits = Vec::new();
        let mut replaces = None;
        if let Some((mut approval, revision)) = before {
            match state::same(&approval, &ask.policy_digest, now) {
                Same::Stands => return Ok(state::standing(&approval)),
                Same::Over => {}
                Same::Void => {
                    state::void(&mut approval);
                    replaces = Some(approval.id.clone());
                    edits.push(written(&approval, Expect::Revision(revision))?);
                    edits.push(Edit::delete(open_at(tenant, &approval.agent, &approval.id)?, Expect::Any));
                }
            }
        }
        room(store, now, tenant, &ask.agent).await?;
        let approval = state::asked(&ask, id::new(now), sidecar, tenant, now);
        let expect = known.map_or(Expect::Absent, |(_, revision)| Expect::Revision(revision));
        edits.extend(opened(&approval, &ask.request)?);
        edits.extend(webhooks.due(&approval, now)?);
        edits.push(Edit::put(index.clone(), bytes(&approval.id)?, expect).until(Some(now.plus(KEPT))));
        match store.documents.put_all(now, edits).await {
            Ok(_) => {
                event(store, &approval, "asked", json!({"sidecar": sidecar.name, "replaces": replaces}))
                    .await;
                return Ok(Standing { replaces, ..state::standing(&approval) });
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::Conflict("too many ask for the same at once: ask again".to_owned()))
}

/// How an approval stands whose id is known.
pub(crate) async fn known(
    store: &Store,
    now: Timestamp,
    tenant: &str,
    id: &str,
) -> Result<Option<Approval>, Failure> {
    Ok(one(store, now, tenant, id).await?.map(|(approval, _)| approval))
}

/// Asks by an id that the asker has made; one that is there already is given as it stands.
pub(crate) async fn put(
    store: &Store,
    webhooks: &Webhooks,
    tenant: &str,
    id: &str,
    since: Timestamp,
    ask: &Ask,
) -> Result<Approval, Failure> {
    check(ask)?;
    let now = clock::now();
    room(store, now, tenant, &ask.agent).await?;
    let asker = Principal::new("control", Role::Sidecar, Some(tenant.to_owned()));
    let approval = state::asked(ask, id.to_owned(), &asker, tenant, since);
    let mut edits = opened(&approval, &ask.request)?.to_vec();
    edits.extend(webhooks.due(&approval, now)?);
    match store.documents.put_all(now, edits).await {
        Ok(_) => event(store, &approval, "asked", json!({"by": ask.rule})).await,
        Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    known(store, clock::now(), tenant, id).await?.ok_or_else(|| missing(id))
}

/// Uses a grant up for the asker itself; the same call may do so again.
pub(crate) async fn take(store: &Store, tenant: &str, id: &str, redeem: &Redeem) -> Result<(), Failure> {
    let taken = change(store, tenant, id, Vec::new(), |approval, now| {
        state::redeem(approval, redeem, "control", now)
    });
    let (approval, changed) = taken.await?;
    if changed {
        event(store, &approval, "consumed", json!({"call": redeem.call})).await;
    }
    Ok(())
}

/// Ends an approval that nobody waits for any more.
pub(crate) async fn withdraw(store: &Store, tenant: &str, id: &str, why: &str) -> Result<(), Failure> {
    let (approval, changed) = change(store, tenant, id, Vec::new(), |approval, _| {
        let open = approval.state == State::Pending;
        if open {
            (approval.state, approval.note) = (State::Expired, Some(why.to_owned()));
        }
        Ok(open)
    })
    .await?;
    if changed {
        event(store, &approval, "withdrawn", json!({"why": why})).await;
    }
    Ok(())
}

/// What is written for a new approval, its place in the index left out.
fn opened(approval: &Approval, held: &Held) -> Result<[Edit; 4], Failure> {
    let Approval { tenant, agent, id, created, .. } = approval;
    let kept = Some(created.plus(KEPT));
    let new = |key, value| Edit::put(key, value, Expect::Absent);
    Ok([
        written(&shortened(approval.clone()), Expect::Absent)?,
        new(held_at(tenant, id)?, bytes(held)?).until(kept),
        new(own_key(&format!("approvals-ids/{id}"))?, bytes(tenant)?).until(kept),
        new(open_at(tenant, agent, id)?, bytes(&id)?).until(Some(approval.expires)),
    ])
}

fn written(approval: &Approval, expect: Expect) -> Result<Edit, Failure> {
    let key = at(&approval.tenant, &approval.id)?;
    Ok(Edit::put(key, bytes(approval)?, expect).until(Some(approval.created.plus(KEPT))))
}

/// As a listing shows it: long arguments are cut.
fn shortened(mut approval: Approval) -> Approval {
    let text = approval.arguments.to_string();
    if text.len() > SHOWN {
        let end = text.floor_char_boundary(SHOWN);
        approval.arguments = Value::String(text.get(..end).unwrap_or_default().to_owned());
        approval.cut = true;
    }
    approval
}

/// Refuses an ask that is larger than one may be.
fn check(ask: &Ask) -> Result<(), Failure> {
    let invalid = |what: &str| Err(Failure::Invalid(what.to_owned()));
    if ask.hash.len() != 64 || !ask.hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return invalid("`hash` is not a SHA-256 in hex");
    }
    if ask.request.body.len() > BODY {
        return invalid("the body is too large to be held for an approval");
    }
    if ask.request.arguments.to_string().len() > ARGUMENTS
        || ask.request.constraints.to_string().len() > CONSTRAINTS
    {
        return invalid("the arguments or the constraints are too large to be held for an approval");
    }
    let Held { method, scheme, host, path, headers, .. } = &ask.request;
    let texts =
        [&ask.agent, &ask.call, &ask.rule, &ask.reason, &ask.point, &ask.topic, method, scheme, host, path];
    let lists = [&ask.chain, &ask.terms.roles, &ask.terms.approvers];
    let pairs = headers.iter().flat_map(|(name, value)| [name, value]);
    let mut all = texts.into_iter().chain(ask.tool.iter()).chain(ask.model.iter());
    let long = |text: &&String| text.len() > TEXT;
    if all.any(|text| long(&text)) || pairs.chain(lists.into_iter().flatten()).any(|text| long(&text)) {
        return invalid("a text is too long to be shown for an approval");
    }
    if headers.len() > SEVERAL || lists.iter().any(|list| list.len() > SEVERAL) {
        return invalid("too many headers, links, roles or approvers");
    }
    Ok(())
}

/// Refuses when too many are open. Many that ask at once may overshoot by as many.
async fn room(store: &Store, now: Timestamp, tenant: &str, agent: &str) -> Result<(), Failure> {
    let open = async |path: String, most: usize| {
        let scope = Prefix::new(OWN, &path).map_err(|error| Failure::Invalid(error.to_string()))?.into();
        let page = store.documents.list(now, &scope, None, most).await?;
        Ok::<_, Failure>(page.documents.len() >= most)
    };
    if open(format!("approvals-open/{tenant}/{}", short(agent)), OPEN_OF_AGENT).await? {
        let what = format!("{OPEN_OF_AGENT} approvals are pending for `{agent}` already: no more are taken");
        return Err(Failure::Conflict(what));
    }
    if open(format!("approvals-open/{tenant}"), OPEN).await? {
        return Err(Failure::Conflict(format!("{OPEN} approvals are pending already: no more are taken")));
    }
    Ok(())
}

/// Waits until a pending approval is decided, for at most so long, and tells how it stands then.
pub(crate) async fn wait(
    store: &Store,
    sidecar: &Principal,
    id: &str,
    most: Duration,
) -> Result<Standing, Failure> {
    let key = at(own_tenant(sidecar), id)?;
    let scope = Prefix::new(OWN, &format!("approvals/{}", own_tenant(sidecar)))
        .map_err(|error| Failure::Invalid(error.to_string()))?;
    // Watched before it is read, so that no answer in between is missed.
    let mut changes = store.documents.watch(scope.into());
    let since = clock::Stopwatch::start();
    loop {
        let found = one(store, clock::now(), own_tenant(sidecar), id).await?;
        let (approval, _) = found.ok_or_else(|| missing(id))?;
        let left = most.saturating_sub(since.elapsed());
        if approval.state != State::Pending || left.is_zero() {
            return Ok(state::standing(&approval));
        }
        let changed = async {
            loop {
                match changes.next().await {
                    Some(Change::Changed { key: other, .. }) if other != key => {}
                    Some(_) => return,
                    None => std::future::pending().await,
                }
            }
        };
        // A timeout is a reason to look as well.
        let _ = tokio::time::timeout(left.min(LOOK), changed).await;
    }
}

/// Uses a grant up for one call of a sidecar's.
pub(crate) async fn redeem(
    store: &Store,
    sidecar: &Principal,
    id: &str,
    redeem: &Redeem,
) -> Result<Standing, Failure> {
    sidecar.speaks_for(&redeem.agent)?;
    let tenant = own_tenant(sidecar);
    let (approval, changed) = change(store, tenant, id, Vec::new(), |approval, now| {
        state::redeem(approval, redeem, &sidecar.name, now)
    })
    .await?;
    if changed {
        event(store, &approval, "consumed", json!({"call": redeem.call, "sidecar": sidecar.name})).await;
    }
    Ok(state::standing(&approval))
}

/// Takes a person's answer.
pub(crate) async fn answer(
    store: &Store,
    who: &Principal,
    id: &str,
    answer: &Answer,
) -> Result<Approval, Failure> {
    let tenant = tenant_of(store, clock::now(), who, id).await?;
    answered(store, who, &tenant, id, answer, Vec::new()).await
}

/// As [`answer`], with more that is written together with it.
async fn answered(
    store: &Store,
    who: &Principal,
    tenant: &str,
    id: &str,
    answer: &Answer,
    also: Vec<Edit>,
) -> Result<Approval, Failure> {
    let vote = |approval: &mut Approval, now| state::vote(approval, who, answer, now).map(|()| true);
    let (approval, _) = change(store, tenant, id, also, vote).await?;
    let told = json!({"by": who.name, "verdict": answer.verdict, "state": approval.state});
    event(store, &approval, "answered", told).await;
    Ok(approval)
}

/// Changes an approval by compare-and-set, tried again when somebody else was faster.
async fn change(
    store: &Store,
    tenant: &str,
    id: &str,
    also: Vec<Edit>,
    change: impl Fn(&mut Approval, Timestamp) -> Result<bool, Failure>,
) -> Result<(Approval, bool), Failure> {
    for _ in 0..TRIES {
        let now = clock::now();
        let (mut approval, revision) = one(store, now, tenant, id).await?.ok_or_else(|| missing(id))?;
        if !change(&mut approval, now)? {
            return Ok((approval, false));
        }
        let mut edits = also.clone();
        edits.push(written(&approval, Expect::Revision(revision))?);
        if approval.state != State::Pending {
            edits.push(Edit::delete(open_at(tenant, &approval.agent, id)?, Expect::Any));
        }
        match store.documents.put_all(now, edits).await {
            Ok(_) => return Ok((approval, true)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::Conflict(format!("too many answer approval `{id}` at once: try again")))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use sideguard_runtime::clock;
    use sideguard_store::Store;
    use sideguard_types::control::approvals::{Answer, Ask, Held, Redeem, Said, State, Terms};

    use super::{Webhooks, answer, ask, list, redeem, turned, whole};
    use crate::error::Failure;
    use crate::keys::{Principal, Role, own_key};

    fn question(arguments: Value) -> Ask {
        let terms = Terms {
            quorum: 1,
            roles: Vec::new(),
            approvers: Vec::new(),
            expires: 60,
            valid: 60,
            cooldown: 60,
        };
        let request = Held {
            method: "POST".to_owned(),
            scheme: "https".to_owned(),
            host: "h".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            body: String::new(),
            arguments,
            constraints: Value::Null,
        };
        Ask {
            agent: "writer".to_owned(),
            chain: Vec::new(),
            call: "c".to_owned(),
            rule: "p/r".to_owned(),
            reason: String::new(),
            point: "tool.call".to_owned(),
            topic: "job.h.post".to_owned(),
            tool: None,
            model: None,
            policy_digest: "d".to_owned(),
            hash: "0".repeat(64),
            terms,
            request,
        }
    }

    fn sidecar() -> Principal {
        Principal::new("s", Role::Sidecar, Some("acme".to_owned()))
    }

    #[test]
    fn newer_ids_come_first_and_only_ids_are_names() {
        let id = "01a2b3c4d5e6f708192a3b4c";
        let (old, new) = (turned("000000000001000000000000"), turned("000000000002000000000000"));
        assert!(new.expect("a name") < old.expect("a name"));
        assert_eq!(turned(&turned(id).expect("a name")).ok().as_deref(), Some(id));
        for id in ["", "x", "../../../../../../keys/a", &id.to_uppercase(), &id[1..], &format!("{id}0")] {
            assert!(turned(id).is_err(), "{id}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_ask_for_one_approval_and_one_of_them_uses_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let (hooks, sidecar) = (Webhooks::default(), sidecar());
        let long = Value::String("é".repeat(3_000));
        let asking = (0..16).map(|_| ask(&store, &hooks, clock::now(), &sidecar, question(long.clone())));
        let asked = futures_util::future::try_join_all(asking).await.expect("questions");
        let id = asked[0].id.clone();
        assert!(asked.iter().all(|one| one.id == id && one.state == State::Pending));

        let viewer = Principal::new("v", Role::Viewer, Some("acme".to_owned()));
        let listed = list(&store, clock::now(), &viewer, None, None, 10).await.expect("a page");
        assert!(listed.items.len() == 1 && listed.items[0].cut);
        let shown = whole(&store, clock::now(), &viewer, &id).await.expect("an approval");
        assert!(shown.arguments == long && !shown.cut);

        let alice = Principal::new("alice", Role::Approver, None);
        let yes = Answer { verdict: Said::Approve, reason: None };
        answer(&store, &alice, &id, &yes).await.expect("an answer");
        let wanted: Vec<Redeem> = (0..16)
            .map(|call| Redeem {
                agent: "writer".to_owned(),
                call: call.to_string(),
                hash: "0".repeat(64),
                policy_digest: "d".to_owned(),
            })
            .collect();
        let using = wanted.iter().map(|wanted| redeem(&store, &sidecar, &id, wanted));
        let used = futures_util::future::join_all(using).await;
        let winner = used.iter().position(Result::is_ok).expect("one that passes");
        assert_eq!(used.iter().filter(|one| one.is_ok()).count(), 1);
        assert!(used.iter().flat_map(Result::as_ref).all(|one| one.by == ["alice"]));
        // The call whose answer was lost asks again; another sidecar's call of that name is another call.
        assert!(redeem(&store, &sidecar, &id, &wanted[winner]).await.is_ok());
        let other = Principal { name: "t".to_owned(), ..sidecar.clone() };
        assert!(matches!(redeem(&store, &other, &id, &wanted[winner]).await, Err(Failure::Conflict(_))));

        let events = own_key("approvals-events/acme").expect("a name");
        let events = store.journal.read(&events, 0, 10).await.expect("a journal");
        let events: Vec<Value> =
            events.iter().map(|(_, entry)| serde_json::from_slice(entry).expect("JSON")).collect();
        let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!(names, ["asked", "answered", "consumed"]);
        store.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_too_large_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open_embedded(dir.path()).await.expect("a store");
        let refused = async |change: &dyn Fn(&mut Ask)| {
            let mut question = question(Value::Null);
            change(&mut question);
            let asked = ask(&store, &Webhooks::default(), clock::now(), &sidecar(), question).await;
            matches!(asked, Err(Failure::Invalid(_)))
        };
        assert!(refused(&|ask| ask.request.body = "a".repeat(super::BODY + 1)).await);
        assert!(refused(&|ask| ask.agent = "a".repeat(super::TEXT + 1)).await);
        assert!(refused(&|ask| ask.chain = vec![String::new(); super::SEVERAL + 1]).await);
        assert!(refused(&|ask| ask.hash = "../x".to_owned()).await);
        assert!(!refused(&|_| {}).await);
        store.close().await;
    }
}
