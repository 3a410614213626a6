//! The loop that drives runs: it follows what changes, and has a turn with every run that this may be about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use sideguard_runtime::clock;
use sideguard_store::documents::{Change, Revision};
use sideguard_types::time::Timestamp;

use super::attend::{Attended, Compiled, Hint, attend};
use super::runs::{self, Id};
use super::{jobs, lease};
use crate::api::Control;
use crate::error::Failure;

/// Runs that have a turn at once.
const AT_ONCE: usize = 32;
/// Pause after the store could not be used.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest sleep: what has lost its notice is seen then.
const LONGEST: Duration = Duration::from_secs(3);
/// Jobs and approvals that were told of and are remembered, at least.
const HEARD: usize = 5_000;
/// Marks of one page.
const PAGE: usize = 1_000;

/// An open run, as this replica knows it.
#[derive(Debug, Default)]
struct Known {
    next: Timestamp,
    /// The last revision that this replica wrote.
    revision: Option<Revision>,
    awaits: BTreeSet<String>,
}

/// What has changed.
enum News {
    Run(Id, Revision),
    /// A job or an approval, by its id.
    Awaited(String),
    /// Anything.
    Lost,
}

type Turn = BoxFuture<'static, (Id, Result<Attended, Failure>)>;

struct Driver {
    control: Arc<Control>,
    compiled: Arc<Compiled>,
    runs: HashMap<Id, Known>,
    /// Which runs wait for a job or an approval.
    awaited: HashMap<String, Id>,
    woken: BTreeMap<Id, Hint>,
    /// Runs that have a turn.
    busy: HashSet<Id>,
    /// The last writes that were told of them meanwhile.
    moved: HashMap<Id, Revision>,
    /// Jobs and approvals that were told of lately and that no run is known to wait for: a turn may just have begun them.
    heard: [HashSet<String>; 2],
    turns: FuturesUnordered<Turn>,
}

/// Drives runs whenever this replica has the right to, until the task is dropped.
pub(crate) async fn drive(control: Arc<Control>, replica: String) {
    loop {
        match lease::take(&control.store, clock::now(), &replica).await {
            Ok(true) => {
                if let Err(error) = Driver::new(Arc::clone(&control)).drive(&replica).await {
                    tracing::warn!(%error, "runs are not driven by this replica now");
                }
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "whether to drive runs cannot be said"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Driver {
    fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            compiled: Arc::default(),
            runs: HashMap::new(),
            awaited: HashMap::new(),
            woken: BTreeMap::new(),
            busy: HashSet::new(),
            moved: HashMap::new(),
            heard: Default::default(),
            turns: FuturesUnordered::new(),
        }
    }

    /// Until another replica has the right.
    async fn drive(&mut self, replica: &str) -> Result<(), Failure> {
        // Watched before it is listed, so that nothing in between is missed.
        let mut news = self.news()?;
        self.list().await?;
        let mut renewed = clock::now();
        loop {
            let now = clock::now();
            if now.since(renewed) >= lease::RENEW {
                if !lease::take(&self.control.store, now, replica).await? {
                    return Ok(());
                }
                renewed = now;
            }
            self.wake(now);
            self.begin();
            let pause = self.sleep(now);
            tokio::select! {
                Some((id, attended)) = self.turns.next(), if !self.turns.is_empty() => self.ended(id, attended),
                told = news.next() => match told {
                    None => return Ok(()),
                    Some(News::Lost) => self.list().await?,
                    Some(told) => self.hear(told),
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What is told of runs, jobs and approvals.
    fn news(&self) -> Result<stream::BoxStream<'static, News>, Failure> {
        let documents = &self.control.store.documents;
        let runs = documents.watch(runs::open_scope()?).map(|change| match change {
            Change::Changed { key, revision } => {
                Id::of_mark(&key).map_or(News::Lost, |id| News::Run(id, revision))
            }
            Change::Resync => News::Lost,
        });
        // An approval that is answered is open no more.
        let (jobs, approvals) = (jobs::scope()?, runs::scope("approvals-open")?);
        let awaited =
            stream::select(documents.watch(jobs), documents.watch(approvals)).map(|change| match change {
                Change::Changed { key, .. } => {
                    let id = key.path().rsplit_once('/').map_or_else(String::new, |(_, id)| id.to_owned());
                    News::Awaited(id)
                }
                Change::Resync => News::Lost,
            });
        Ok(stream::select(runs, awaited).boxed())
    }

    /// Wakes every open run.
    async fn list(&mut self) -> Result<(), Failure> {
        let (scope, mut after) = (runs::open_scope()?, None);
        loop {
            let documents = &self.control.store.documents;
            let page = documents.list(clock::now(), &scope, after.as_ref(), PAGE).await?;
            for document in page.documents {
                if let Some(id) = Id::of_mark(&document.key) {
                    self.runs.entry(id.clone()).or_default();
                    self.rouse(id, Hint::All);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn rouse(&mut self, id: Id, hint: Hint) {
        let hint = match self.woken.remove(&id) {
            Some(before) => before.and(hint),
            None => hint,
        };
        self.woken.insert(id, hint);
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Run(id, revision) => {
                if self.busy.contains(&id) {
                    self.moved.insert(id, revision);
                    return;
                }
                let known = self.runs.entry(id.clone()).or_default();
                // What this replica wrote itself it knows.
                if known.revision.is_none_or(|own| own < revision) {
                    self.rouse(id, Hint::Jobs(BTreeSet::new()));
                }
            }
            News::Awaited(what) => match self.awaited.get(&what).cloned() {
                Some(id) => self.rouse(id, Hint::Jobs(BTreeSet::from([what]))),
                None if self.turns.is_empty() => {}
                None => {
                    if self.heard[0].len() >= HEARD {
                        self.heard[1] = std::mem::take(&mut self.heard[0]);
                    }
                    self.heard[0].insert(what);
                }
            },
            News::Lost => {}
        }
    }

    /// Wakes the runs whose time has come.
    fn wake(&mut self, now: Timestamp) {
        let due = self.runs.iter().filter(|(id, known)| known.next <= now && !self.busy.contains(id));
        let due: Vec<Id> = due.map(|(id, _)| id.clone()).collect();
        for id in due {
            self.rouse(id, Hint::All);
        }
    }

    /// Begins turns while there is room.
    fn begin(&mut self) {
        while self.turns.len() < AT_ONCE {
            let Some(id) = self.woken.keys().find(|id| !self.busy.contains(id)).cloned() else { return };
            let hint = self.woken.remove(&id).unwrap_or(Hint::All);
            let (control, compiled) = (Arc::clone(&self.control), Arc::clone(&self.compiled));
            self.busy.insert(id.clone());
            self.turns.push(
                async move {
                    // What is wrong with one run is not to hold up the others.
                    let turn = AssertUnwindSafe(attend(&control, &compiled, &id, &hint)).catch_unwind();
                    let broken = |_| Err(Failure::Broken(format!("a turn of run `{}`", id.run)));
                    let attended = turn.await.unwrap_or_else(broken);
                    (id, attended)
                }
                .boxed(),
            );
        }
    }

    fn ended(&mut self, id: Id, attended: Result<Attended, Failure>) {
        self.busy.remove(&id);
        let moved = self.moved.remove(&id);
        let before = self.runs.remove(&id).unwrap_or_default();
        let attended = match attended {
            Ok(attended) => attended,
            Err(error) => {
                tracing::warn!(%error, run = id.run, "a run cannot be driven now");
                let next = Some(clock::now().plus(PAUSE));
                Attended { next, revision: before.revision, awaits: before.awaits.clone() }
            }
        };
        for gone in before.awaits.difference(&attended.awaits) {
            self.awaited.remove(gone);
        }
        let Attended { next: Some(next), revision, awaits } = attended else { return };
        let mut missed = BTreeSet::new();
        for what in awaits.difference(&before.awaits) {
            self.awaited.insert(what.clone(), id.clone());
            if self.heard.iter().any(|heard| heard.contains(what)) {
                missed.insert(what.clone());
            }
        }
        let moved = moved.is_some_and(|moved| revision.is_none_or(|own| own < moved));
        if moved || !missed.is_empty() {
            self.rouse(id.clone(), Hint::Jobs(missed));
        }
        self.runs.insert(id, Known { next, revision, awaits });
    }

    /// Until when nothing is to be done that is known of.
    fn sleep(&self, now: Timestamp) -> Duration {
        let idle = self.runs.iter().filter(|(id, _)| !self.busy.contains(*id));
        let next = idle.map(|(_, known)| known.next).min();
        next.map_or(LONGEST, |next| next.since(now).max(Duration::from_millis(1))).min(LONGEST)
    }
}
