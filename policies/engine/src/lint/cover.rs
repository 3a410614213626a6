//! Whether one rule matches every call that another does. Where that cannot be told, the answer is no.

use crate::glob::Glob;
use crate::policy::{Key, Rule};

/// Whether every call that `narrow` matches is matched by `wide` too.
pub(super) fn covers(wide: &Rule, narrow: &Rule) -> bool {
    wide.when.is_none()
        && wide.velocity.is_none()
        && wide.matches.given().iter().all(|key| key_covers(*key, wide, narrow))
}

fn key_covers(key: Key, wide: &Rule, narrow: &Rule) -> bool {
    let (w, n) = (&wide.matches, &narrow.matches);
    if !n.given().contains(&key) {
        return w.globs(key).iter().any(Glob::is_any) && always_there(key);
    }
    match key {
        Key::Points => n.points.iter().all(|point| w.points.contains(point)),
        Key::Verbs => n.verbs.iter().all(|verb| w.verbs.contains(verb)),
        // All of them must be there: fewer demands are wider.
        Key::Requires => w.requires.iter().all(|wanted| n.requires.iter().any(|other| wanted.covers(other))),
        Key::Labels => w.labels.iter().all(|(name, wanted)| {
            n.labels.iter().any(|(other, value)| name == other && wanted.covers(value))
        }),
        Key::Delegation => w.delegation == n.delegation,
        Key::Content => false,
        // A rule that restricts sees aliases, one that allows does not.
        Key::Topics if narrow.restricts() && !wide.restricts() => false,
        _ => n.globs(key).iter().all(|other| w.globs(key).iter().any(|glob| glob.covers(other))),
    }
}

/// Whether every call has a text for the key, so that `*` is no condition.
fn always_there(key: Key) -> bool {
    matches!(key, Key::Tenants | Key::Agents | Key::Topics | Key::Methods | Key::Paths)
}
