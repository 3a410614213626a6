//! Which rules can be about a call at all: most of many thousand need not be looked at.
//!
//! Each rule is filed under one of its keys, the one that the fewest rules share: an exact tool, the topic's literal
//! beginning or end up to a dot, a host or its domain, and so on; a list files it under each item. A call has the
//! same keys, so the rules under them, and the few that can be filed nowhere, are all that could match. What is
//! found is tried in full, so that a collision of hashes costs time but changes nothing.

use ahash::RandomState;
use sideguard_types::call::{Call, Point, Verb};
use smallvec::SmallVec;

use super::{Key, Match, Rule};
use crate::glob::Glob;

type Keys = SmallVec<[u64; 32]>;
type Buckets = std::collections::HashMap<u64, Vec<u32>, RandomState>;

/// Rules by what they are about.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Buckets,
    /// Rules that can be about any call.
    rest: Vec<u32>,
    used: Used,
}

/// Kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Topic = 1,
    TopicHead,
    TopicTail,
    Tool,
    ToolHead,
    /// Any call to a tool: where nothing better is known of the rule's globs.
    AnyTool,
    Model,
    /// Any call to a model.
    AnyModel,
    Host,
    HostTail,
    Agent,
    Tenant,
    Tag,
    Method,
    Point,
    Verb,
}

/// Which kinds of keys any rule is filed under, as a set of bits, and how many dots the longest head and tail have:
/// a name made of dots alone must not cost more than the rules ask for.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    kinds: u32,
    dots: usize,
}

impl Used {
    fn has(self, kind: Kind) -> bool {
        self.kinds >> kind as u8 & 1 == 1
    }
}

/// One way to file a rule: under each of these keys.
struct Filing {
    keys: Vec<(Kind, u64)>,
    dots: usize,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let filings: Vec<Vec<Filing>> = rules.iter().map(|rule| filings(&rule.matches)).collect();
        let mut shared: std::collections::HashMap<u64, usize, RandomState> =
            std::collections::HashMap::with_hasher(hasher());
        for (_, key) in filings.iter().flatten().flat_map(|filing| &filing.keys) {
            let count = shared.entry(*key).or_insert(0);
            *count = count.saturating_add(1);
        }
        let crowd = |filing: &Filing| -> usize {
            filing
                .keys
                .iter()
                .map(|(_, key)| shared.get(key).copied().unwrap_or(0))
                .fold(0, usize::saturating_add)
        };
        let mut index =
            Self { buckets: Buckets::with_hasher(hasher()), rest: Vec::new(), used: Used::default() };
        for (number, ways) in (0_u32..).zip(&filings) {
            match ways.iter().min_by_key(|filing| crowd(filing)) {
                None => index.rest.push(number),
                Some(filing) => index.file(number, filing),
            }
        }
        index
    }

    fn file(&mut self, number: u32, filing: &Filing) {
        self.used.dots = self.used.dots.max(filing.dots);
        for (kind, key) in &filing.keys {
            self.used.kinds |= 1 << *kind as u8;
            let bucket = self.buckets.entry(*key).or_default();
            if bucket.last() != Some(&number) {
                bucket.push(number);
            }
        }
    }

    /// The rules that can be about `call`, in order.
    pub(crate) fn candidates(&self, call: &Call<'_>) -> Candidates<'_> {
        let mut lists: SmallVec<[&[u32]; 16]> = SmallVec::new();
        if !self.rest.is_empty() {
            lists.push(&self.rest);
        }
        for key in call_keys(call, self.used) {
            lists.extend(self.buckets.get(&key).map(Vec::as_slice));
        }
        Candidates { lists }
    }
}

/// Several sorted lists, read as one.
pub(crate) struct Candidates<'i> {
    lists: SmallVec<[&'i [u32]; 16]>,
}

impl Candidates<'_> {
    /// The first candidate that is not before `from`.
    pub(crate) fn next_from(&mut self, from: usize) -> Option<usize> {
        let from = u32::try_from(from).ok()?;
        let mut first: Option<u32> = None;
        for list in &mut self.lists {
            if list.first().is_some_and(|head| *head < from) {
                let skip = list.partition_point(|number| *number < from);
                *list = list.get(skip..).unwrap_or_default();
            }
            if let Some(head) = list.first() {
                first = Some(first.map_or(*head, |least| least.min(*head)));
            }
        }
        usize::try_from(first?).ok()
    }
}

fn hasher() -> RandomState {
    // Keys come from policy, not from calls: nobody gains by making them collide.
    RandomState::with_seeds(1, 2, 3, 4)
}

/// FNV-1a over lower-cased bytes, as a running value, so that one pass yields every head (or tail) of a text.
#[derive(Clone, Copy)]
struct Running(u64);

impl Running {
    const START: Self = Self(0xcbf2_9ce4_8422_2325);

    fn add(self, byte: u8) -> Self {
        Self((self.0 ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3))
    }

    fn key(self, kind: Kind) -> u64 {
        (self.0 ^ (u64::from(kind as u8) << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Whether a byte ends a part of a name: a dot in topics and hosts, anything but letters and digits in tools' names.
const fn parts(kind: Kind, byte: u8) -> bool {
    match kind {
        Kind::ToolHead => !byte.is_ascii_alphanumeric() && byte.is_ascii(),
        _ => byte == b'.',
    }
}

fn whole(kind: Kind, text: &str) -> u64 {
    text.bytes().fold(Running::START, Running::add).key(kind)
}

fn backwards(kind: Kind, text: &str) -> u64 {
    text.bytes().rev().fold(Running::START, Running::add).key(kind)
}

fn point_key(point: Point) -> u64 {
    whole(Kind::Point, point.as_str())
}

fn verb_key(verb: Verb) -> u64 {
    whole(Kind::Verb, verb.as_str())
}

/// The ways to file a rule.
fn filings(matches: &Match) -> Vec<Filing> {
    let mut ways = Vec::new();
    let plain = [
        (Kind::Tool, Key::Tools),
        (Kind::Model, Key::Models),
        (Kind::Agent, Key::Agents),
        (Kind::Tenant, Key::Tenants),
        (Kind::Tag, Key::RiskTags),
        (Kind::Method, Key::Methods),
    ];
    for (kind, key) in plain {
        ways.extend(filing(matches.globs(key), |glob| {
            glob.is_exact().then(|| (kind, whole(kind, glob.text())))
        }));
    }
    let exact = |kind: Kind, glob: &Glob| glob.is_exact().then(|| (kind, whole(kind, glob.text())));
    let head = |kind: Kind, glob: &Glob| head(kind, glob);
    ways.extend(filing(matches.globs(Key::Tools), |glob| {
        exact(Kind::Tool, glob).or_else(|| head(Kind::ToolHead, glob))
    }));
    for (any, key) in [(Kind::AnyTool, Key::Tools), (Kind::AnyModel, Key::Models)] {
        ways.extend(filing(matches.globs(key), |_| Some((any, whole(any, "")))));
    }
    ways.extend(filing(&matches.topics, |glob| {
        exact(Kind::Topic, glob).or_else(|| head(Kind::TopicHead, glob))
    }));
    ways.extend(filing(&matches.topics, |glob| {
        exact(Kind::Topic, glob).or_else(|| tail(Kind::TopicTail, glob))
    }));
    ways.extend(filing(&matches.hosts, |glob| {
        exact(Kind::Host, glob).or_else(|| tail(Kind::HostTail, glob))
    }));
    // All of `requires` must be there, so that any one of them will do.
    for glob in &matches.requires {
        ways.extend(filing(std::slice::from_ref(glob), |glob| exact(Kind::Tag, glob)));
    }
    let listed = |keys: Vec<(Kind, u64)>| (!keys.is_empty()).then_some(Filing { keys, dots: 0 });
    ways.extend(listed(matches.points.iter().map(|point| (Kind::Point, point_key(*point))).collect()));
    ways.extend(listed(matches.verbs.iter().map(|verb| (Kind::Verb, verb_key(*verb))).collect()));
    ways
}

/// Files under every glob's key; `None` when one has none, or when there are no globs.
fn filing(globs: &[Glob], key: impl Fn(&Glob) -> Option<(Kind, u64)>) -> Option<Filing> {
    if globs.is_empty() {
        return None;
    }
    let keys = globs.iter().map(key).collect::<Option<Vec<_>>>()?;
    let dots =
        globs.iter().map(|glob| glob.text().bytes().filter(|byte| parts(Kind::ToolHead, *byte)).count());
    Some(Filing { keys, dots: dots.max().unwrap_or(0) })
}

/// `job.crm` of `job.crm.*`.
fn head(kind: Kind, glob: &Glob) -> Option<(Kind, u64)> {
    let end = glob.head().bytes().rposition(|byte| parts(kind, byte))?;
    Some((kind, whole(kind, glob.head().get(..end)?)))
}

/// `.delete` of `job.*.delete`.
fn tail(kind: Kind, glob: &Glob) -> Option<(Kind, u64)> {
    let (_, tail) = glob.tail().split_once('.')?;
    Some((kind, backwards(kind, tail)))
}

/// The keys of a call.
fn call_keys(call: &Call<'_>, used: Used) -> Keys {
    let mut keys = Keys::new();
    let mut put = |kind: Kind, key: u64| {
        if used.has(kind) {
            keys.push(key);
        }
    };
    put(Kind::Point, point_key(call.point));
    put(Kind::Verb, verb_key(call.class.verb));
    for tag in &call.class.risk_tags {
        put(Kind::Tag, whole(Kind::Tag, tag));
    }
    for (kind, text) in [
        (Kind::Tool, call.tool),
        (Kind::Model, call.model),
        (Kind::Method, Some(call.method)),
        (Kind::Agent, Some(call.caller.agent.as_str())),
        (Kind::Tenant, Some(call.caller.tenant.as_str())),
    ] {
        if let Some(text) = text.filter(|_| used.has(kind)) {
            put(kind, whole(kind, text));
        }
    }
    for (any, there) in [(Kind::AnyTool, call.tool.is_some()), (Kind::AnyModel, call.model.is_some())] {
        if there {
            put(any, whole(any, ""));
        }
    }
    if let Some(tool) = call.tool.filter(|_| used.has(Kind::ToolHead)) {
        forward(tool, Kind::Tool, Some(Kind::ToolHead), used.dots, &mut put);
    }
    let host = (Kind::Host, None, Kind::HostTail, Some(call.host));
    let topic = |text| (Kind::Topic, Some(Kind::TopicHead), Kind::TopicTail, text);
    for (exact, head, tail, text) in
        [host, topic(Some(call.class.topic.as_ref())), topic(call.class.alias.as_deref())]
    {
        let Some(text) = text else { continue };
        if used.has(exact) || head.is_some_and(|head| used.has(head)) {
            forward(text, exact, head, used.dots, &mut put);
        }
        if used.has(tail) {
            tails(text, tail, used.dots, &mut put);
        }
    }
    keys
}

/// The key of a text and of each head of it that ends before a dot.
fn forward(text: &str, exact: Kind, head: Option<Kind>, dots: usize, put: &mut impl FnMut(Kind, u64)) {
    let mut running = Running::START;
    let mut left = dots;
    for byte in text.bytes() {
        if let (Some(head), 1..) = (head, left)
            && parts(head, byte)
        {
            put(head, running.key(head));
            left = left.saturating_sub(1);
        }
        running = running.add(byte);
    }
    put(exact, running.key(exact));
}

/// The key of each tail of a text that begins after a dot.
fn tails(text: &str, kind: Kind, dots: usize, put: &mut impl FnMut(Kind, u64)) {
    let mut running = Running::START;
    let mut left = dots;
    for byte in text.bytes().rev() {
        if byte == b'.' {
            if left == 0 {
                return;
            }
            put(kind, running.key(kind));
            left = left.saturating_sub(1);
        }
        running = running.add(byte);
    }
}
