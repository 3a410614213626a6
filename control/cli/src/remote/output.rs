//! Words on standard output, as people and programs want them.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};

use serde::Serialize;
use sideguard_types::time::Timestamp;

use super::{Failure, OWN_FAILURE, Outcome};

/// Form of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// Aligned columns.
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A text in which nothing steers the terminal: names and reasons come from other machines.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

/// Writes a text to standard output.
pub(crate) fn put(text: &str) -> Outcome {
    put_as_is(&harmless(text))
}

/// Writes a text that is known to be harmless.
pub(crate) fn put_as_is(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // Whoever reads has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::default()),
        Err(error) => Err(Failure::new(OWN_FAILURE, format!("cannot write to standard output: {error}"))),
    }
}

/// Writes JSON on several lines.
pub(crate) fn put_json(value: &impl Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(unwritten)?;
    put_as_is(&format!("{text}\n"))
}

/// Writes YAML.
pub(crate) fn put_yaml(value: &impl Serialize) -> Outcome {
    let text = serde_saphyr::to_string(value).map_err(unwritten)?;
    put(&format!("{}\n", text.trim_end()))
}

fn unwritten(error: impl std::fmt::Display) -> Failure {
    Failure::new(OWN_FAILURE, error.to_string())
}

/// A moment, to the second.
pub(crate) fn moment(time: Timestamp) -> String {
    let text = time.to_string();
    text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

#[cfg(test)]
mod tests {
    use sideguard_types::time::Timestamp;

    use super::{harmless, moment};

    #[test]
    fn what_others_say_does_not_steer_the_terminal() {
        assert_eq!(harmless("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(harmless("a\u{1b}[2Jb\r\u{9b}"), "a\\u{1b}[2Jb\\r\\u{9b}");
    }

    #[test]
    fn a_moment_is_shown_to_the_second() {
        assert_eq!(moment(Timestamp(1_500_000)), "1970-01-01T00:00:01Z");
    }
}
