//! Where readers of journals stopped.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::part::Part;

/// How many journals are remembered; then all are forgotten, as finding a place again costs little.
const MOST: usize = 10_000;

/// For each subject, a part and its position.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<String, (u64, u64)>>);

impl Places {
    /// Notes where a part begins.
    pub(super) fn remember(&self, subject: &str, part: &Part) {
        let mut places = self.0.lock();
        if let Some(place) = places.get_mut(subject) {
            *place = (part.from, part.sequence);
            return;
        }
        if places.len() >= MOST {
            places.clear();
        }
        places.insert(subject.to_owned(), (part.from, part.sequence));
    }

    /// The number of the part noted for a subject, if it does not begin after `position`.
    pub(super) fn before(&self, subject: &str, position: u64) -> Option<u64> {
        self.0.lock().get(subject).filter(|(from, _)| *from <= position).map(|(_, sequence)| *sequence)
    }
}
