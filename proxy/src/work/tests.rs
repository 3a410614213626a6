//! Laws of fencing and of what a worker hands over, for every order of answers, pauses and questions.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use sideguard_runtime::secret::Secret;
use sideguard_types::control::jobs::{Assignment, Lease, Told};

use super::book::Book;
use super::tie::{Held, Term, Tie, job_of};

fn given(job: &str, epoch: u64) -> Assignment {
    let whole = json!({
        "epoch": epoch,
        "job": {
            "id": job, "tenant": "acme", "spec": {"topic": "job.crm.update"}, "by": {"name": "boss"},
            "state": "dispatched", "created": "2026-11-27T10:00:00Z", "changed": "2026-11-27T10:00:00Z",
            "traceId": trace(job),
        },
    });
    serde_json::from_value(whole).expect("an assignment")
}

fn trace(job: &str) -> String {
    format!("{:0>32}", job.trim_start_matches('j'))
}

fn lease(job: &str, epoch: u64) -> Lease {
    Lease { job: job.to_owned(), epoch }
}

const fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A book in which the agent is at these jobs, by leases that hold until `until`.
fn at_work(most: usize, jobs: &[&str], until: u64) -> Book {
    let mut book = Book::new(most, Arc::new(Term::default()));
    let jobs: Vec<Assignment> = jobs.iter().map(|job| given(job, 1)).collect();
    let count = jobs.len();
    book.take(Told { jobs, lease_ms: until, ..Told::default() }, at(0), at(0));
    for _ in 0..count {
        let held = book.start(at(0)).expect("a job");
        assert!(book.hand_over(&held, at(0)));
    }
    book
}

fn over(leases: &[Lease], lease_ms: u64) -> Told {
    Told { over: leases.to_vec(), lease_ms, ..Told::default() }
}

/// What happens to a worker.
#[derive(Debug, Clone)]
enum Event {
    /// Time passes; a process that is stopped does nothing else.
    Pass(u64),
    /// A question is sent.
    Ask,
    /// The question that is under way is answered: these jobs are over, the others hold for so long, and there is a new one
    /// or not.
    Answer { over: Vec<usize>, lease: u64, new: bool },
    /// The question that is under way is given up.
    Lose,
    /// The agent asks for a job, and gets it where there is one.
    Next,
    /// The agent makes a call for one of its jobs, or for it is not known which.
    Call { of: usize, named: bool },
    /// The agent tells how one of its jobs ended, and control's answer is this.
    End { of: usize, taken: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_u64..4_000).prop_map(Event::Pass),
        Just(Event::Ask),
        (prop::collection::vec(0_usize..4, 0..2), 0_u64..3_000, any::<bool>())
            .prop_map(|(over, lease, new)| Event::Answer { over, lease, new }),
        Just(Event::Lose),
        Just(Event::Next),
        (0_usize..4, any::<bool>()).prop_map(|(of, named)| Event::Call { of, named }),
        (0_usize..4, any::<bool>()).prop_map(|(of, taken)| Event::End { of, taken }),
    ]
}

/// What control has granted, kept apart from the book: until when each lease holds at the most.
#[derive(Debug, Default)]
struct Granted {
    /// Until when all leases hold that are not over.
    until: u64,
    over: Vec<Lease>,
}

impl Granted {
    fn holds(&self, lease: &Lease, now: u64) -> bool {
        now < self.until && !self.over.contains(lease)
    }
}

proptest! {
    /// No order of answers, pauses and calls lets a call pass for a job whose lease does not hold, and a job whose lease
    /// holds is not in the way of its calls.
    #[test]
    fn a_call_passes_only_while_the_lease_of_its_job_holds(
        most in 1_usize..4,
        events in prop::collection::vec(event(), 1..80),
    ) {
        let mut book = Book::new(most, Arc::new(Term::default()));
        let (mut now, mut asked, mut next) = (1_u64, None, 0);
        let mut granted = Granted::default();
        for event in events {
            let open = book.open();
            let one = |of: usize| open.get(of % open.len().max(1)).cloned();
            match event {
                Event::Pass(millis) => now += millis,
                Event::Ask => asked = Some((now, book.leases())),
                Event::Lose => asked = None,
                Event::Answer { over, lease, new } => {
                    let Some((sent, named)) = asked.take() else { continue };
                    let over: Vec<Lease> = over.iter().filter_map(|at| named.get(*at).cloned()).collect();
                    let mut told = Told { over: over.clone(), lease_ms: lease, ..Told::default() };
                    if new {
                        next += 1;
                        told.jobs.push(given(&format!("j{next}"), 1));
                    }
                    granted.until = sent + lease;
                    granted.over.extend(over);
                    book.take(told, at(sent), at(now));
                }
                Event::Next => {
                    book.asked(at(now));
                    if let Some(held) = book.start(at(now)) {
                        prop_assert!(granted.holds(&held.lease, now), "only what is this worker's starts");
                        prop_assert_eq!(book.hand_over(&held, at(now)), granted.holds(&held.lease, now));
                    }
                    prop_assert!(book.open().len() <= most);
                }
                Event::Call { of, named } => {
                    let Some(held) = one(of) else {
                        prop_assert!(matches!(job_of(&open, None, None), Tie::Free));
                        continue;
                    };
                    let trace = named.then(|| trace(&held.lease.job));
                    let tie = job_of(&open, trace.as_deref(), None);
                    let may = if named || open.len() == 1 {
                        granted.holds(&held.lease, now)
                    } else {
                        open.iter().all(|held| granted.holds(&held.lease, now))
                    };
                    prop_assert_eq!(tie.stops_at(at(now)).is_none(), may);
                    // A process that is stopped right after it was judged finds the same out later.
                    prop_assert!(tie.stops_at(at(granted.until)).is_some());
                }
                Event::End { of, taken } => {
                    let Some(held) = one(of) else { continue };
                    if book.end(&held) {
                        book.close(&held, Some(taken));
                        prop_assert_eq!(book.ended(&held.lease.job), Some(taken));
                    }
                }
            }
        }
    }
}

fn refused(tie: &Tie, now: u64) -> bool {
    tie.stops_at(at(now)).is_some()
}

#[test]
fn a_call_belongs_to_the_job_that_it_names() {
    let mut book = at_work(3, &["j1", "j2", "j3"], 100);
    book.take(over(&[lease("j1", 1)], 100), at(0), at(0));
    let open = book.open();
    let job = |tie: &Tie| tie.job().map(str::to_owned);
    let traced = job_of(&open, Some(&trace("j2")), None);
    assert_eq!((job(&traced).as_deref(), refused(&traced, 50)), (Some("j2"), false));
    // Its own key goes before a trace that it has from somewhere.
    let key: Secret<String> = open.first().expect("a job").key.clone();
    let keyed = job_of(&open, Some(&trace("j2")), Some(&key));
    assert_eq!((job(&keyed).as_deref(), refused(&keyed, 50)), (Some("j1"), true));
    let unnamed =
        job_of(&open, Some("ffffffffffffffffffffffffffffffff"), Some(&Secret::new("other".to_owned())));
    assert_eq!((job(&unnamed), refused(&unnamed, 50)), (None, true), "it may be made for the fenced one");
    let rest: Vec<Arc<Held>> = open.into_iter().skip(1).collect();
    assert!(!refused(&job_of(&rest, None, None), 50));
    assert!(refused(&job_of(&rest, None, None), 100), "nobody renewed");
}

#[test]
fn a_job_is_fenced_until_the_agent_has_let_go_of_it() {
    let mut book = at_work(1, &["j1"], 100);
    let told = Told { jobs: vec![given("j1", 2)], ..over(&[lease("j1", 1)], 100) };
    book.take(told, at(0), at(0));
    assert!(book.start(at(1)).is_none(), "no room, and the agent may still be at it");
    assert!(refused(&job_of(&book.open(), None, None), 1));
    assert_eq!(book.leases(), [lease("j1", 2)]);
    // Who does one thing at a time and asks for another has let go.
    assert!(book.asked(at(2)).is_none());
    let held = book.start(at(2)).expect("the same job by its next lease");
    assert!(book.hand_over(&held, at(2)) && !refused(&job_of(&book.open(), None, None), 2));
}

#[test]
fn a_job_is_not_handed_over_twice_at_once() {
    let mut book = at_work(2, &["j1"], 100);
    let told = Told { jobs: vec![given("j1", 2)], ..over(&[lease("j1", 1)], 100) };
    book.take(told, at(0), at(0));
    assert!(book.start(at(1)).is_none(), "there is room, but the agent has it by its former lease");
    assert!(book.asked(at(1)).is_none());
    let former = book.open().remove(0);
    assert!(book.end(&former) && !book.end(&former));
    book.close(&former, Some(false));
    assert_eq!(book.start(at(1)).map(|held| held.lease.clone()), Some(lease("j1", 2)));
}

#[test]
fn what_nobody_asks_for_is_given_back_and_never_handed_over_then() {
    let mut book = Book::new(1, Arc::new(Term::default()));
    let mut short = given("j1", 1);
    short.job.spec.limits.dispatch = Some(sideguard_types::time::Span(Duration::from_secs(2)));
    book.take(Told { jobs: vec![short, given("j2", 1)], lease_ms: 60_000, ..Told::default() }, at(0), at(0));
    assert!(book.give_back(at(1_999), false).is_empty());
    let late = book.give_back(at(2_000), false);
    assert_eq!(late.iter().map(|held| held.lease.clone()).collect::<Vec<_>>(), [lease("j1", 1)]);
    // Control may have heard that it is given back: it stays named and is not started.
    assert_eq!(book.leases().len(), 2);
    assert_eq!(book.start(at(2_001)).map(|held| held.lease.job.clone()).as_deref(), Some("j2"));
    assert!(book.start(at(2_001)).is_none());
}

#[test]
fn a_job_whose_start_was_not_heard_of_starts_again_by_the_same_lease() {
    let mut book = Book::new(1, Arc::new(Term::default()));
    book.take(Told { jobs: vec![given("j1", 1)], lease_ms: 100, ..Told::default() }, at(0), at(0));
    let held = book.start(at(1)).expect("a job");
    book.put_back(&held);
    assert!(book.start(at(100)).is_none(), "its lease does not hold now");
    book.take(over(&[], 100), at(50), at(60));
    let again = book.start(at(120)).expect("the same job");
    assert_eq!(again.lease, held.lease);
    assert!(!book.hand_over(&again, at(150)), "it ran out before anybody had it");
}
