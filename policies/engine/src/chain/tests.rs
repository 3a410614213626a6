use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use sideguard_types::call::{Call, Caller, Class, Point, Verb};
use sideguard_types::delegation::{Allowance, Chain, Link, Passport, Receipt, Rights};
use sideguard_types::time::Timestamp;
use sideguard_types::units::{MicroUsd, Tokens};

use super::{
    Broken, Ended, Expected, Purse, Taken, Terms, Want, digest, extend, hex, is_receipt, signed_receipt,
    verify,
};
use crate::policy::PolicySet;
use crate::source::{Source, load};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const LIFE: Duration = Duration::from_secs(600);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// Control's key.
fn control() -> SigningKey {
    key(1)
}

/// The passport of the sidecar that has the key of `seed`.
fn passport(seed: u8) -> Passport {
    let mut passport = Passport {
        tenant: "acme".to_owned(),
        sidecar: format!("sidecar-{seed}"),
        agent: None,
        key: hex(key(seed).verifying_key().as_bytes()),
        expires: NOW.plus(Duration::from_secs(3_600)),
        signature: String::new(),
    };
    passport.signature = hex(&control().sign(&passport.message()).to_bytes());
    passport
}

fn terms(from: &str, to: &str) -> Terms {
    Terms {
        id: format!("{from}-{to}"),
        from: from.to_owned(),
        to: to.to_owned(),
        rights: Rights::default(),
        budget: Allowance::default(),
        now: NOW,
        life: LIFE,
        depth: 3,
        session: None,
        call: "call".to_owned(),
    }
}

fn rights(capabilities: &[&str]) -> Rights {
    let capabilities = Some(capabilities.iter().map(ToString::to_string).collect());
    Rights { capabilities, ..Rights::default() }
}

fn one() -> Chain {
    extend(None, terms("a", "b"), &passport(2), &key(2)).expect("a chain")
}

fn two() -> Chain {
    extend(Some(&one()), terms("b", "c"), &passport(3), &key(3)).expect("a chain")
}

fn taken(chain: Chain, holder: &str) -> Result<super::Verified, Broken> {
    taken_at(chain, holder, NOW)
}

fn taken_at(chain: Chain, holder: &str, now: Timestamp) -> Result<super::Verified, Broken> {
    let signer = control().verifying_key().to_bytes();
    verify(chain, &Expected { tenant: "acme", signer: &signer, holder, depth: 4, now })
}

/// A link changed and signed anew by its own issuer, as a sidecar does that has gone bad.
fn resigned(mut link: Link, seed: u8, change: impl FnOnce(&mut Link)) -> Link {
    change(&mut link);
    link.signature = hex(&key(seed).sign(&link.message()).to_bytes());
    link
}

#[test]
fn a_chain_that_the_sidecars_made_is_taken() {
    let verified = taken(two(), "c").expect("a good chain");
    let agents: Vec<&str> = verified.hops.iter().map(|hop| hop.agent.as_str()).collect();
    assert_eq!((agents, verified.link()), (vec!["a", "b"], "b-c"));
    assert_eq!(taken(one(), "b").expect("a good chain").issued, NOW);
}

#[test]
fn a_foreign_holder_a_stale_link_and_another_tenant_are_refused() {
    assert_eq!(taken(one(), "c").expect_err("refused"), Broken::Holder("b".to_owned()));
    let late = NOW.plus(LIFE);
    assert_eq!(taken_at(one(), "b", late).expect_err("refused"), Broken::Expired("a-b".to_owned()));
    let early = Timestamp(NOW.0 - 31_000_000);
    assert_eq!(taken_at(one(), "b", early).expect_err("refused"), Broken::Early("a-b".to_owned()));
    let signer = control().verifying_key().to_bytes();
    let elsewhere = Expected { tenant: "umbrella", signer: &signer, holder: "b", depth: 4, now: NOW };
    assert_eq!(verify(one(), &elsewhere).expect_err("refused"), Broken::Tenant("a-b".to_owned()));
    assert_eq!(taken(Chain { links: Vec::new() }, "b").expect_err("refused"), Broken::Empty);
}

#[test]
fn an_issuer_that_control_has_not_signed_or_that_speaks_for_another_is_refused() {
    let mut own = passport(2);
    own.signature = hex(&key(2).sign(&own.message()).to_bytes());
    let forged = extend(None, terms("a", "b"), &own, &key(2)).expect("a chain");
    assert_eq!(taken(forged, "b").expect_err("refused"), Broken::Issuer("a-b".to_owned()));
    let stolen = extend(None, terms("a", "b"), &passport(2), &key(3)).expect("a chain");
    assert_eq!(taken(stolen, "b").expect_err("refused"), Broken::Signature("a-b".to_owned()));
    let mut bound = passport(2);
    bound.agent = Some("x".to_owned());
    bound.signature = hex(&control().sign(&bound.message()).to_bytes());
    let posing = extend(None, terms("a", "b"), &bound, &key(2)).expect("a chain");
    let expected = Broken::Speaker("a-b".to_owned(), "a".to_owned());
    assert_eq!(taken(posing, "b").expect_err("refused"), expected);
}

#[test]
fn a_chain_goes_no_deeper_than_its_links_and_the_receiver_let_it() {
    let mut chain = one();
    for (from, to) in [("b", "c"), ("c", "d"), ("d", "e")] {
        chain = extend(Some(&chain), terms(from, to), &passport(3), &key(3)).expect("deep enough");
    }
    let deeper = extend(Some(&chain), terms("e", "f"), &passport(3), &key(3));
    assert_eq!(deeper, Err(Ended::Deep("a → b → c → d → e".to_owned())));
    assert!(taken(chain.clone(), "e").is_ok());
    let signer = control().verifying_key().to_bytes();
    let strict = Expected { tenant: "acme", signer: &signer, holder: "e", depth: 3, now: NOW };
    assert_eq!(verify(chain, &strict).expect_err("refused"), Broken::TooDeep { links: 4, most: 3 });
    // A sidecar that gives itself more depth than it got.
    let mut chain = two();
    let last = chain.links.pop().expect("a link");
    chain.links.push(resigned(last, 3, |link| link.depth = 3));
    assert_eq!(taken(chain, "c").expect_err("refused"), Broken::Deeper("b-c".to_owned()));
}

#[test]
fn a_link_that_its_own_issuer_widens_is_refused() {
    let bounded = Terms { budget: Allowance { tokens: Some(10), ..Allowance::default() }, ..terms("a", "b") };
    let parent = extend(None, bounded, &passport(2), &key(2)).expect("a chain");
    let child = extend(Some(&parent), terms("b", "c"), &passport(3), &key(3)).expect("a chain");
    assert_eq!(child.links[1].budget.tokens, Some(10), "a child's budget lies inside its parent's");
    type Widen = fn(&mut Link);
    let changes: [(Widen, Broken); 5] = [
        (|link| link.budget.tokens = Some(11), Broken::Widened("b-c".to_owned())),
        (|link| link.budget = Allowance::default(), Broken::Widened("b-c".to_owned())),
        (|link| link.expires = NOW.plus(LIFE * 2), Broken::Widened("b-c".to_owned())),
        (|link| link.expires = NOW.plus(LIFE * 7), Broken::Widened("b-c".to_owned())),
        (|link| link.prev = digest(link), Broken::Order("b-c".to_owned())),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let mut chain = child.clone();
        let last = chain.links.pop().expect("a link");
        chain.links.push(resigned(last, 3, change));
        assert_eq!(taken(chain, "c").expect_err("refused"), expected, "{number}");
    }
}

#[test]
fn links_cannot_be_left_out_or_put_under_another_chain() {
    let mut headless = two();
    headless.links.remove(0);
    assert_eq!(taken(headless, "c").expect_err("refused"), Broken::Order("b-c".to_owned()));
    let other = Terms { id: "other".to_owned(), ..terms("a", "b") };
    let mut moved = extend(None, other, &passport(2), &key(2)).expect("a chain");
    moved.links.extend(two().links.pop());
    assert_eq!(taken(moved, "c").expect_err("refused"), Broken::Order("b-c".to_owned()));
}

#[test]
fn whichever_worker_of_a_pool_takes_the_work_may_hand_it_on() {
    let pool = extend(None, terms("a", "pool/crunchers"), &passport(2), &key(2)).expect("a chain");
    assert!(taken(pool.clone(), "pool/crunchers").is_ok());
    let next = extend(Some(&pool), terms("worker-7", "c"), &passport(3), &key(3)).expect("a chain");
    assert!(taken(next, "c").is_ok());
}

#[test]
fn a_receipt_is_good_for_its_link_from_its_holder_alone() {
    let link = one().links.remove(0);
    let signer = control().verifying_key().to_bytes();
    let receipt = Receipt {
        link: link.id.clone(),
        tokens: 7,
        usd: MicroUsd(1),
        calls: 2,
        issuer: passport(3),
        signature: String::new(),
    };
    let good = signed_receipt(receipt.clone(), &key(3));
    assert!(is_receipt(&good, &link, &signer, NOW));
    assert!(!is_receipt(&Receipt { tokens: 6, ..good.clone() }, &link, &signer, NOW));
    assert!(!is_receipt(&signed_receipt(receipt.clone(), &key(4)), &link, &signer, NOW));
    let other = Receipt { link: "other".to_owned(), ..receipt };
    assert!(!is_receipt(&signed_receipt(other, &key(3)), &link, &signer, NOW));
    assert!(!is_receipt(&good, &link, &signer, NOW.plus(Duration::from_secs(3_600))));
}

fn set(text: &str) -> PolicySet {
    let texts = [Source::new("p.yaml", format!("version: v1\nrules: []\n---\n{text}"))];
    crate::compile(&load(&texts)).expect("it compiles")
}

/// What is said of `b`, who works for others, when it makes a call.
fn said(set: &PolicySet, delegations: Vec<super::Verified>, topic: &str, verb: Verb) -> Result<(), String> {
    let caller = Caller {
        tenant: "acme".to_owned(),
        agent: "b".to_owned(),
        delegations: delegations.into_iter().map(|verified| verified.hops).collect(),
        ..Caller::default()
    };
    let class = Class { topic: topic.to_owned().into(), alias: None, verb, risk_tags: Vec::new() };
    let call = Call {
        caller: &caller,
        point: Point::ToolCall,
        class,
        tool: None,
        args: None,
        model: None,
        host: "",
        method: "",
        path: "",
        query: "",
        tokens: Tokens(0),
        cost: MicroUsd(0),
        session: None,
        content: b"",
    };
    set.scope(&call, NOW).map_err(|out| out.reason)
}

#[test]
fn a_deputy_has_no_more_than_whom_it_works_for() {
    let admin = "apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: b, tenant: acme}\n\
                 spec: {capabilities: [\"admin:*\"]}\n";
    let reader = Terms { rights: rights(&["read:*"]), ..terms("a", "b") };
    let chain = taken(extend(None, reader, &passport(2), &key(2)).expect("a chain"), "b").expect("good");
    let set = set(admin);
    assert_eq!(said(&set, Vec::new(), "job.crm.delete", Verb::Admin), Ok(()));
    assert_eq!(said(&set, vec![chain.clone()], "job.crm.get", Verb::Read), Ok(()));
    assert_eq!(
        said(&set, vec![chain], "job.crm.delete", Verb::Admin),
        Err("a → b: `a` has no capability for `admin:job.crm.delete`".to_owned())
    );
}

#[test]
fn rights_that_were_taken_away_since_hold_for_work_that_was_handed_on_before() {
    let narrowed = set("apiVersion: sideguard.dev/v1\nkind: Agent\nmetadata: {name: a, tenant: acme}\n\
         spec: {capabilities: [\"read:*\"]}\n");
    let chain = taken(one(), "b").expect("good");
    assert!(said(&narrowed, vec![chain], "job.crm.delete", Verb::Admin).is_err());
}

#[test]
fn what_cannot_be_read_in_a_right_lets_nothing_through() {
    let odd = Terms { rights: rights(&["anything"]), ..terms("a", "b") };
    let chain = taken(extend(None, odd, &passport(2), &key(2)).expect("a chain"), "b").expect("good");
    let nothing = Terms { rights: rights(&[]), ..terms("a", "b") };
    let none = taken(extend(None, nothing, &passport(2), &key(2)).expect("a chain"), "b").expect("good");
    for chain in [chain, none] {
        assert!(said(&set(""), vec![chain], "job.crm.get", Verb::Read).is_err());
    }
}

fn some_rights() -> impl Strategy<Value = Rights> {
    let globs = proptest::sample::subsequence(
        &["read:*", "write:job.crm.*", "admin:job.db.*", "admin:*", "read:job.db.*"][..],
        0..3,
    );
    proptest::option::of(globs).prop_map(|globs| globs.map_or_else(Rights::default, |globs| rights(&globs)))
}

proptest! {
    /// More hops, and more delegations, only ever restrict; their order does not matter.
    #[test]
    fn every_hop_restricts_and_their_order_does_not_matter(
        hops in proptest::collection::vec(some_rights(), 1..4),
        topic in proptest::sample::select(&["job.crm.get", "job.db.drop", "llm.x.chat"][..]),
        verb in proptest::sample::select(vec![Verb::Read, Verb::Write, Verb::Admin]),
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let build = |hops: &[Rights]| {
            let mut chain = None;
            for (at, rights) in hops.iter().enumerate() {
                let terms = Terms { rights: rights.clone(), ..terms(names[at], names[at + 1]) };
                chain = Some(extend(chain.as_ref(), terms, &passport(2), &key(2)).expect("a chain"));
            }
            taken(chain.expect("a link"), names[hops.len()]).expect("good")
        };
        let set = set("");
        let all = said(&set, vec![build(&hops)], topic, verb).is_ok();
        for length in 1..hops.len() {
            let fewer = said(&set, vec![build(&hops[..length])], topic, verb).is_ok();
            prop_assert!(fewer || !all);
        }
        let back: Vec<Rights> = hops.iter().rev().cloned().collect();
        prop_assert_eq!(all, said(&set, vec![build(&back)], topic, verb).is_ok());
        let apart = hops.iter().map(|rights| build(std::slice::from_ref(rights))).collect();
        prop_assert_eq!(all, said(&set, apart, topic, verb).is_ok());
    }

    /// Any one byte of any text of a chain changed: it is refused.
    #[test]
    fn a_chain_with_one_byte_changed_is_refused(at in any::<prop::sample::Index>(), bit in 0..7_u8) {
        let mut bytes = serde_json::to_vec(&two()).expect("a text");
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(chain) = serde_json::from_slice::<Chain>(&bytes) {
            prop_assert!(chain == two() || taken(chain, "c").is_err());
        }
    }

    /// Work is handed on, used and lost at random, to any depth: all that was used together is within the root's budget.
    #[test]
    fn what_a_whole_tree_uses_is_within_its_roots_budget(
        steps in proptest::collection::vec((0_usize..6, any::<prop::sample::Index>(), 1_u64..40), 1..120),
    ) {
        const ROOT: u64 = 100;
        let wish = |tokens| Allowance { tokens: Some(tokens), ..Allowance::default() };
        let want = |tokens| Want { tokens, ..Want::default() };
        struct Node { purse: Purse, parent: Option<(usize, Option<Taken>)>, calls: Vec<(Taken, u64)>, alive: bool }
        let mut tree = vec![Node { purse: Purse::new(wish(ROOT)), parent: None, calls: vec![], alive: true }];
        let mut used = 0;
        for (step, at, amount) in steps {
            let at = at.index(tree.len());
            if !tree[at].alive {
                continue;
            }
            match step {
                // A call leaves.
                0 | 1 => if let Ok(taken) = tree[at].purse.take(want(amount)) {
                    tree[at].calls.push((taken, amount));
                },
                // A call is answered: it used no more than it took.
                2 => if let Some((taken, amount)) = tree[at].calls.pop() {
                    used += amount / 2;
                    tree[at].purse.settle(taken, want(amount / 2));
                },
                // Work is handed on.
                3 => {
                    let share = tree[at].purse.share(wish(amount));
                    if let Ok(taken) = tree[at].purse.take(share.into()) {
                        let purse = Purse::new(share);
                        tree.push(Node { purse, parent: Some((at, Some(taken))), calls: vec![], alive: true });
                    }
                }
                // It is answered, with a receipt: calls that are still out count in full.
                4 => {
                    used += tree[at].calls.drain(..).map(|(_, amount)| amount).sum::<u64>();
                    if let Some((parent, taken)) = tree[at].parent.take() {
                        let told = tree[at].purse.close();
                        tree[at].alive = false;
                        if let Some(taken) = taken {
                            tree[parent].purse.settle(taken, told);
                        }
                    }
                }
                // Its sidecar is gone, and nobody hears of it: calls that left may have used all that they took.
                _ => if at > 0 {
                    used += tree[at].calls.drain(..).map(|(_, amount)| amount).sum::<u64>();
                    tree[at].alive = false;
                },
            }
            let out: u64 = tree.iter().flat_map(|node| node.calls.iter().map(|(_, amount)| amount)).sum();
            prop_assert!(used + out <= ROOT, "{used} and {out}");
        }
    }
}
