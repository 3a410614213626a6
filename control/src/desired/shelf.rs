//! Texts that were read lately. A text is named by its hash, so that it is the same in whichever store and for whoever asks:
//! one shelf for the process is enough, and nothing on it grows old.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

/// Most bytes of texts; then the shelf is emptied.
const MOST: usize = 64 << 20;

static SHELF: LazyLock<Mutex<Shelf>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Shelf {
    bytes: usize,
    texts: HashMap<String, Arc<str>>,
}

/// The text of a hash, if it is there.
pub(super) fn take(hash: &str) -> Option<Arc<str>> {
    SHELF.lock().texts.get(hash).cloned()
}

/// Puts a text there; whoever does has checked that it has the hash.
pub(super) fn put(hash: &str, text: &str) {
    let mut shelf = SHELF.lock();
    if shelf.bytes.saturating_add(text.len()) > MOST {
        *shelf = Shelf::default();
    }
    if shelf.texts.insert(hash.to_owned(), text.into()).is_none() {
        shelf.bytes += text.len();
    }
}
