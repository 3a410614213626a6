//! A text into its documents, without losing a byte of it.

use serde::de::IgnoredAny;

/// One document, with what stands around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Document<'t> {
    /// Everything, its marker included.
    pub(super) whole: &'t str,
    /// The document itself.
    pub(super) body: &'t str,
    pub(super) form: Form,
    /// Where the body begins in the whole.
    at: usize,
}

/// What a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Yaml,
    Json,
}

impl<'t> Document<'t> {
    /// What stands before the body.
    pub(super) fn before(&self) -> &'t str {
        self.whole.get(..self.at).unwrap_or_default()
    }

    /// What stands behind the body.
    pub(super) fn after(&self) -> &'t str {
        self.whole.get(self.at.saturating_add(self.body.len())..).unwrap_or_default()
    }

    /// Whether there is nothing but comments.
    pub(super) fn is_empty(&self) -> bool {
        self.body.lines().map(str::trim_start).all(|line| line.is_empty() || line.starts_with(['#', '%']))
    }
}

/// The documents of a text, in order; put together they are the text.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut start = 0_usize;
    let mut at = 0_usize;
    for line in text.split_inclusive('\n') {
        if at > start && is_marker(line) {
            push(text, start, at, &mut documents);
            start = at;
        }
        at = at.saturating_add(line.len());
    }
    push(text, start, at, &mut documents);
    documents
}

/// Whether a line begins a document: nothing else can begin so, at whatever depth.
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn push<'t>(text: &'t str, start: usize, end: usize, documents: &mut Vec<Document<'t>>) {
    let Some(whole) = text.get(start..end).filter(|whole| !whole.is_empty()) else { return };
    let first = whole.split_inclusive('\n').next().unwrap_or_default();
    // A document may begin on the line of its marker.
    let alone =
        first.get(3..).is_some_and(|rest| rest.trim().is_empty() || rest.trim_start().starts_with('#'));
    let at = match (is_marker(first), alone) {
        (true, true) => first.len(),
        (true, false) => 3,
        (false, _) => 0,
    };
    let body = whole.get(at..).unwrap_or_default();
    // What stands behind the end of a document, and white space, is none of it.
    let end =
        body.find("\n...").filter(|end| is_end(body, *end)).map_or(body.len(), |end| end.saturating_add(1));
    let body = body.get(..end).unwrap_or_default();
    if body.trim_start().starts_with('{')
        && let Some(found) = json(whole, body, at)
    {
        return documents.extend(found);
    }
    documents.push(Document { whole, body, form: Form::Yaml, at });
}

fn is_end(body: &str, at: usize) -> bool {
    let rest = body.get(at.saturating_add(4)..).unwrap_or_default();
    rest.is_empty() || rest.starts_with([' ', '\r', '\n'])
}

/// Objects of JSON, one behind the other; nothing when it is no JSON.
fn json<'t>(whole: &'t str, body: &'t str, at: usize) -> Option<Vec<Document<'t>>> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(body).into_iter::<IgnoredAny>();
    let mut starts = vec![0_usize];
    while let Some(object) = deserializer.next() {
        object.ok()?;
        starts.push(deserializer.byte_offset());
    }
    for (index, pair) in starts.windows(2).enumerate() {
        let [from, to] = *pair else { continue };
        let last = index.saturating_add(2) == starts.len();
        let begin = if index == 0 { 0 } else { at.saturating_add(from) };
        let end = if last { whole.len() } else { at.saturating_add(to) };
        let own = body.get(from..to)?;
        let blank = own.len().saturating_sub(own.trim_start().len());
        let part = whole.get(begin..end)?;
        let place = at.saturating_add(from).saturating_add(blank).saturating_sub(begin);
        found.push(Document { whole: part, body: own.trim(), form: Form::Json, at: place });
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::{Form, documents};

    #[test]
    fn the_documents_put_together_are_the_text() {
        for (text, count) in [
            ("", 0),
            ("a: 1\n", 1),
            ("---\na: 1\n---\nb: 2", 2),
            ("# c\n---\na: |\n  ---\n  x\n--- # d\nb: 1\n...\n# after\n", 3),
            ("{\"a\": 1}\n{\"b\": [2]}\n", 2),
            ("---\n{\"a\": 1}\n---\nb: 1\r\n", 2),
            ("--- {a: 1}\n", 1),
            ("{a: flow}\n", 1),
        ] {
            let found = documents(text);
            assert_eq!(found.len(), count, "{text:?}");
            assert_eq!(found.iter().map(|document| document.whole).collect::<String>(), text);
            for document in &found {
                let again = format!("{}{}{}", document.before(), document.body, document.after());
                assert_eq!(again, document.whole, "{text:?}");
            }
        }
        assert_eq!(documents("{\"a\": 1}\n")[0].form, Form::Json);
        assert_eq!(documents("{a: 1}\n")[0].form, Form::Yaml);
        assert!(documents("# only\n---\n# this\n").iter().all(super::Document::is_empty));
    }
}
