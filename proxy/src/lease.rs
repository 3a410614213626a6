//! Leases of the fleet's budgets: control keeps the accounts, this sidecar spends what control has granted it.
//!
//! Calls draw on leases in the [`Ledger`](sideguard_policy::ledger::Ledger) without a word to control. This task asks for
//! more before there is nothing left, tells every few seconds what was spent, gives back what is not used, and closes all
//! at the end. A lease is drawn on for as long as control has said, counted by a stop-watch from before the request was
//! sent; without a word from control it is over by then, long before control charges it in full.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sideguard_client::{Client, ClientError};
use sideguard_policy::ledger::{Ledger, Subject, Told, Wish};
use sideguard_runtime::clock::{self, Stopwatch};
use sideguard_runtime::id;
use sideguard_types::audit::Amounts;
use sideguard_types::control::budgets::{
    self, Answer, Ask, LeaseStanding, MOST_LINES, MOST_TURNS, Turn, Turned, Turns,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::app::Sidecar;

/// Time between turns until control has said how long leases last.
const PERIOD: Duration = Duration::from_secs(2);
/// Longest time for an answer.
const ANSWER: Duration = Duration::from_secs(3);
/// No question for this long after one that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Most leases at once.
const MOST_LEASES: usize = 1_024;
/// Most subjects that wait for an answer.
const MOST_NEEDS: usize = 1_024;
/// Most questions at once.
const MOST_ASKED: usize = 16;
/// Longest time for the last word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What the calls of one subject need.
#[derive(Debug, Clone)]
struct Need {
    /// The least of those that wait; none when nobody does.
    least: Option<Amounts>,
    waiting: u64,
}

/// What calls tell the task.
#[derive(Debug)]
pub(crate) struct Leases {
    since: Stopwatch,
    needs: Mutex<HashMap<(String, budgets::Subject), Need, ahash::RandomState>>,
    needed: Notify,
    ending: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl Leases {
    pub(crate) fn new() -> Self {
        Self {
            since: Stopwatch::start(),
            needs: Mutex::default(),
            needed: Notify::new(),
            ending: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// Time since the sidecar started, by which leases end.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Asks for more: for a call that waits for `least`, or before there is nothing left.
    pub(crate) fn need(&self, who: &Subject<'_>, least: Option<Amounts>) {
        let subject = budgets::Subject {
            agent: who.agent.to_owned(),
            labels: who.labels.clone(),
            session: who.session.map(str::to_owned),
            model: who.model.map(str::to_owned),
        };
        let mut needs = self.needs.lock();
        let key = (who.tenant.to_owned(), subject);
        if needs.len() >= MOST_NEEDS && !needs.contains_key(&key) {
            return;
        }
        let need = needs.entry(key).or_insert(Need { least: None, waiting: 0 });
        if let Some(least) = least {
            need.least = Some(need.least.map_or(least, |other| Amounts {
                input: other.input.min(least.input),
                output: other.output.min(least.output),
                usd: other.usd.min(least.usd),
            }));
            need.waiting = need.waiting.saturating_add(1);
        }
        drop(needs);
        self.needed.notify_one();
    }

    /// Closes all leases, or gives up after a moment.
    pub(crate) async fn end(&self) {
        self.ending.send_replace(true);
        let mut ended = self.ended.subscribe();
        // What is left open then is charged in full.
        let _ = tokio::time::timeout(LAST_WORD, ended.wait_for(|ended| *ended)).await;
    }
}

/// A lease as this sidecar knows it.
#[derive(Debug)]
struct Lease {
    name: String,
    lines: Vec<(Arc<str>, Box<str>)>,
    /// What control holds for it.
    held: Vec<u64>,
    turn: u64,
    /// A turn that control may not have heard of: told again until it has answered.
    pending: Option<Turn>,
    /// When control was told of it last.
    told: Duration,
}

/// A question that was answered, or not.
enum Done {
    Asked { lease: u64, name: String, wishes: Vec<Wish>, at: Duration, answer: Result<Answer, ClientError> },
    Turned { leases: Vec<u64>, at: Duration, answer: Result<Turned, ClientError> },
}

struct Keeper {
    sidecar: Arc<Sidecar>,
    /// Names of this run's leases begin with it.
    run: String,
    next: u64,
    open: HashMap<u64, Lease>,
    /// Accounts that are asked for now.
    asked: HashSet<(Arc<str>, Box<str>)>,
    work: JoinSet<Done>,
    turning: bool,
    period: Duration,
    /// No questions before.
    pause: Duration,
}

/// Keeps leases until the task is dropped.
pub(crate) async fn keep(sidecar: Arc<Sidecar>) {
    let mut ending = sidecar.leases.ending.subscribe();
    let mut keeper = Keeper {
        run: id::token(12).to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "0"),
        next: 0,
        open: HashMap::new(),
        asked: HashSet::new(),
        work: JoinSet::new(),
        turning: false,
        period: PERIOD,
        pause: Duration::ZERO,
        sidecar: Arc::clone(&sidecar),
    };
    let mut next = sidecar.leases.elapsed() + keeper.period;
    loop {
        let wait = next.saturating_sub(sidecar.leases.elapsed());
        tokio::select! {
            () = sidecar.leases.needed.notified() => keeper.ask(),
            Some(done) = keeper.work.join_next() => {
                if let Ok(done) = done {
                    keeper.done(done);
                }
            }
            () = tokio::time::sleep(wait) => {
                keeper.turn(false);
                next = sidecar.leases.elapsed() + keeper.period;
            }
            _ = ending.wait_for(|ending| *ending) => break,
        }
    }
    keeper.end().await;
    sidecar.leases.ended.send_replace(true);
}

impl Keeper {
    fn client(&self) -> Option<Arc<Client>> {
        self.sidecar.fleet.as_ref()?.client()
    }

    /// Asks for what is needed; what is asked for already waits for its answer.
    fn ask(&mut self) {
        let now = self.sidecar.leases.elapsed();
        let Some(client) = self.client().filter(|_| now >= self.pause) else { return };
        let needs = std::mem::take(&mut *self.sidecar.leases.needs.lock());
        for ((tenant, subject), need) in needs {
            if self.work.len() >= MOST_ASKED || self.open.len() >= MOST_LEASES {
                return;
            }
            let wishes = {
                let mut ledger = self.sidecar.ledger.lock();
                ledger.advance(now);
                ledger.wishes(&who(&tenant, &subject), need.least, need.waiting, clock::now())
            };
            let accounts: Vec<_> =
                wishes.iter().map(|wish| (Arc::clone(&wish.limit), wish.key.clone())).collect();
            if wishes.is_empty() || wishes.len() > MOST_LINES {
                continue;
            }
            if accounts.iter().any(|account| self.asked.contains(account)) {
                // Asked again when the answer is there: see `done`.
                if need.least.is_some() {
                    self.sidecar.leases.needs.lock().entry((tenant, subject)).or_insert(need);
                }
                continue;
            }
            self.asked.extend(accounts);
            self.send(&client, subject, wishes);
        }
    }

    fn send(&mut self, client: &Arc<Client>, subject: budgets::Subject, wishes: Vec<Wish>) {
        self.next += 1;
        let (lease, name) = (self.next, format!("{}-{}", self.run, self.next));
        let lines = wishes
            .iter()
            .map(|wish| budgets::Line { limit: wish.limit.to_string(), least: wish.least, want: wish.want })
            .collect();
        let ask = Ask { lease: name.clone(), subject, lines };
        let (client, at) = (Arc::clone(client), self.sidecar.leases.elapsed());
        self.work.spawn(async move {
            let answer = client.hold(&ask, ANSWER).await;
            Done::Asked { lease, name, wishes, at, answer }
        });
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Asked { lease, name, wishes, at, answer } => {
                for wish in &wishes {
                    self.asked.remove(&(Arc::clone(&wish.limit), wish.key.clone()));
                }
                self.answered(lease, name, wishes, at, answer);
                self.sidecar.settled.notify_waiters();
                if !self.sidecar.leases.needs.lock().is_empty() {
                    self.sidecar.leases.needed.notify_one();
                }
            }
            Done::Turned { leases, at, answer } => {
                self.turning = false;
                match answer {
                    Ok(turned) => self.turned(&leases, at, &turned),
                    Err(error) => tracing::debug!(%error, "turns of leases are told again"),
                }
                self.sidecar.settled.notify_waiters();
            }
        }
    }

    fn answered(
        &mut self,
        lease: u64,
        name: String,
        wishes: Vec<Wish>,
        at: Duration,
        answer: Result<Answer, ClientError>,
    ) {
        let sidecar = Arc::clone(&self.sidecar);
        match answer {
            Ok(Answer::Held { granted, free, millis })
                if granted.len() == wishes.len()
                    && granted.iter().zip(&wishes).all(|(granted, wish)| *granted <= wish.want) =>
            {
                let life = Duration::from_millis(millis);
                self.period = (life / 3).max(Duration::from_millis(100));
                let mut ledger = sidecar.ledger.lock();
                for ((wish, amount), free) in wishes.iter().zip(&granted).zip(free) {
                    ledger.grant(lease, (&wish.limit, &wish.key), *amount, at + life, free);
                }
                self.opened(lease, name, wishes, granted, None);
            }
            Ok(Answer::Short { limit, free, soon, reset_at }) => {
                let told = Told { free, soon, reset_at };
                let mut ledger = sidecar.ledger.lock();
                if let Some(wish) = wishes.iter().find(|wish| *wish.limit == *limit) {
                    ledger.short((&wish.limit, &wish.key), told);
                }
            }
            Err(ClientError::Refused(problem)) if problem.status < 500 => {
                tracing::debug!(%problem.detail, "no lease was granted");
                self.pause = sidecar.leases.elapsed() + PAUSE;
            }
            // It may have been granted: whatever it holds is given back.
            Ok(Answer::Held { .. }) | Err(_) => {
                self.pause = sidecar.leases.elapsed() + PAUSE;
                let none = vec![0; wishes.len()];
                let turn = Turn { lease: name.clone(), number: 1, spent: none.clone(), keep: none.clone() };
                self.opened(lease, name, wishes, none, Some(turn));
            }
        }
    }

    fn opened(&mut self, lease: u64, name: String, wishes: Vec<Wish>, held: Vec<u64>, pending: Option<Turn>) {
        let lines = wishes.into_iter().map(|wish| (wish.limit, wish.key)).collect();
        self.open.insert(lease, Lease { name, lines, held, turn: 0, pending, told: Duration::ZERO });
    }

    /// Tells what was spent, unless an answer to the last turns is still awaited. With `all`, nothing is kept that no call
    /// holds.
    fn turn(&mut self, all: bool) {
        let Some(client) = self.client().filter(|_| !self.turning && !self.open.is_empty()) else { return };
        {
            let mut ledger = self.sidecar.ledger.lock();
            ledger.advance(self.sidecar.leases.elapsed());
            for (number, lease) in self.open.iter_mut().filter(|(_, lease)| lease.pending.is_none()) {
                lease.pending = Some(report(&mut ledger, *number, lease, all));
            }
            ledger.turn_over();
        }
        let at = self.sidecar.leases.elapsed();
        // Those that control has not heard of for longest: with more than fit, none is left out for ever.
        let mut due: Vec<(u64, &mut Lease)> = self
            .open
            .iter_mut()
            .filter(|(_, lease)| lease.pending.is_some())
            .map(|(n, lease)| (*n, lease))
            .collect();
        due.sort_by_key(|(_, lease)| lease.told);
        let told = due.into_iter().take(MOST_TURNS).filter_map(|(number, lease)| {
            lease.told = at;
            Some((number, lease.pending.clone()?))
        });
        let (leases, turns): (Vec<u64>, Vec<Turn>) = told.unzip();
        self.turning = true;
        self.work.spawn(async move {
            let answer = client.turn_leases(&Turns { turns }, ANSWER).await;
            Done::Turned { leases, at, answer }
        });
    }

    fn turned(&mut self, leases: &[u64], at: Duration, turned: &Turned) {
        let mut ledger = self.sidecar.ledger.lock();
        let until = at + Duration::from_millis(turned.millis);
        for (number, standing) in leases.iter().zip(&turned.standings) {
            let Some(lease) = self.open.get_mut(number) else { continue };
            let Some(told) = lease.pending.take() else { continue };
            if *standing == LeaseStanding::Open {
                (lease.turn, lease.held) = (told.number, told.keep);
                lease.lines.iter().for_each(|(limit, key)| ledger.renew(*number, (limit, key), until));
                continue;
            }
            if told.keep.iter().any(|keep| *keep > 0) {
                tracing::warn!(
                    lease = lease.name,
                    ?standing,
                    "a lease is gone: control has charged it in full"
                );
            }
            lease.lines.iter().for_each(|(limit, key)| ledger.forget(*number, (limit, key)));
            self.open.remove(number);
        }
    }

    /// Closes what can be closed.
    async fn end(mut self) {
        loop {
            self.turn(true);
            let Some(done) = self.work.join_next().await else { return };
            match done {
                Ok(Done::Asked { lease, name, wishes, at, answer }) => {
                    self.answered(lease, name, wishes, at, answer);
                }
                Ok(done @ Done::Turned { answer: Err(_), .. }) => {
                    self.done(done);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(done) => self.done(done),
                Err(_) => {}
            }
        }
    }
}

/// The next turn of a lease. What control holds for an account that is not here any more counts as spent.
fn report(ledger: &mut Ledger, number: u64, lease: &Lease, all: bool) -> Turn {
    let lines = lease.lines.iter().zip(&lease.held);
    let (spent, keep) = lines
        .map(|((limit, key), held)| ledger.report(number, (limit, key), all).unwrap_or((*held, 0)))
        .unzip();
    Turn { lease: lease.name.clone(), number: lease.turn + 1, spent, keep }
}

fn who<'a>(tenant: &'a str, subject: &'a budgets::Subject) -> Subject<'a> {
    Subject {
        tenant,
        agent: &subject.agent,
        labels: &subject.labels,
        session: subject.session.as_deref(),
        model: subject.model.as_deref(),
    }
}
