//! Parser events to a tree.

use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{self, ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::{Entry, MAX_BYTES, MAX_DEPTH, MAX_NODES, Mark, Node, Refusal, Style, Value};

/// The documents of a text, and what was wrong on the way. After an error of syntax nothing more is read.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    pub(crate) roots: Vec<Node>,
    pub(crate) refusals: Vec<Refusal>,
}

/// Reads all documents of `text`.
pub(crate) fn parse(text: &str) -> Documents {
    if text.len() > MAX_BYTES {
        let message =
            format!("the file has {} bytes, more than the {MAX_BYTES} that one may have", text.len());
        let hint = Some("split it into several files".to_owned());
        let refusal = Refusal { at: Mark { line: 1, column: 1 }, code: "size", message, hint };
        return Documents { roots: Vec::new(), refusals: vec![refusal] };
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        disallow_directives: true
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let step =
            event.map_err(|error| syntax(&error, text)).and_then(|(event, span)| builder.take(event, span));
        if let Err(refusal) = step {
            builder.done.refusals.push(refusal);
            break;
        }
    }
    builder.done
}

/// An open list or map.
struct Open {
    anchor: usize,
    at: Span,
    /// Nodes that it holds, itself included.
    size: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: HashSet<String>, key: Option<Pending> },
}

/// A key whose value comes next.
struct Pending {
    key: String,
    at: Mark,
    repeated: bool,
}

#[derive(Default)]
struct Builder {
    done: Documents,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Refusal> {
        match event {
            Event::DocumentEnd => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                no_tag(tag.is_some(), span)?;
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                self.count(span)?;
                self.put(node(span, Value::Scalar(text.into_owned(), style)), anchor, 1)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                no_tag(tag.is_some(), span)?;
                self.begin(anchor, span, Content::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                no_tag(tag.is_some(), span)?;
                let content = Content::Map { entries: Vec::new(), seen: HashSet::new(), key: None };
                self.begin(anchor, span, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::Alias(anchor) => self.repeat(anchor, span)?,
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, anchor: usize, at: Span, content: Content) -> Result<(), Refusal> {
        if self.open.len() >= MAX_DEPTH {
            return Err(refuse(at, "depth", format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(at)?;
        self.open.push(Open { anchor, at, size: 1, content });
        Ok(())
    }

    fn count(&mut self, span: Span) -> Result<(), Refusal> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES { Err(too_many(span)) } else { Ok(()) }
    }

    fn end(&mut self, span: Span) -> Result<(), Refusal> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        let mut closed = node(open.at, value);
        closed.bytes.end = span.end.byte_offset().unwrap_or(closed.bytes.end);
        self.put(closed, open.anchor, open.size)
    }

    fn repeat(&mut self, anchor: usize, span: Span) -> Result<(), Refusal> {
        let known = self.anchors.get(&anchor).map(|(node, size)| (node, *size));
        let Some((target, size)) = known else {
            return Err(refuse(span, "alias", "an alias to something that is not complete yet".to_owned()));
        };
        self.nodes = self.nodes.saturating_add(size);
        if self.nodes > MAX_NODES {
            return Err(too_many(span));
        }
        let copy = target.clone();
        self.put(copy, 0, size)
    }

    /// Puts a finished node where it belongs: into the innermost open list or map, or among the documents.
    fn put(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), Refusal> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            self.done.roots.push(node);
            return Ok(());
        };
        open.size = open.size.saturating_add(size);
        match &mut open.content {
            Content::List(items) => items.push(node),
            Content::Map { entries, seen, key } => match key.take() {
                Some(pending) if pending.repeated => {}
                Some(Pending { key, at, .. }) => entries.push(Entry { key, at, value: node }),
                None => {
                    let at = node.at;
                    let Value::Scalar(text, _) = node.value else {
                        let message = "a key must be plain text, not a list or a map".to_owned();
                        return Err(Refusal { at, code: "key", message, hint: Some(braces_hint()) });
                    };
                    let repeated = !seen.insert(text.clone());
                    if repeated {
                        self.done.refusals.push(duplicate(&text, at, entries));
                    }
                    *key = Some(Pending { key: text, at, repeated });
                }
            },
        }
        Ok(())
    }
}

fn duplicate(key: &str, at: Mark, entries: &[Entry]) -> Refusal {
    let first = entries.iter().find(|entry| entry.key == key).map_or(0, |entry| entry.at.line);
    Refusal {
        at,
        code: "duplicate-key",
        message: format!("the key `{key}` stands twice in one map"),
        hint: Some(format!("it stands on line {first} already; keep one of the two")),
    }
}

fn no_tag(tagged: bool, span: Span) -> Result<(), Refusal> {
    if tagged {
        return Err(refuse(span, "tag", "tags such as `!name` are not used here; remove it".to_owned()));
    }
    Ok(())
}

fn too_many(span: Span) -> Refusal {
    refuse(span, "size", format!("more than {MAX_NODES} values, aliases counted in full"))
}

fn braces_hint() -> String {
    "text that begins with `[` or `{` must stand in quotes".to_owned()
}

fn refuse(span: Span, code: &'static str, message: String) -> Refusal {
    Refusal { at: mark(&span.start), code, message, hint: None }
}

fn node(span: Span, value: Value) -> Node {
    Node { at: mark(&span.start), bytes: span.byte_range().unwrap_or_default(), value }
}

fn mark(marker: &Marker) -> Mark {
    Mark { line: marker.line(), column: marker.col().saturating_add(1) }
}

fn syntax(error: &ScanError, text: &str) -> Refusal {
    let at = mark(error.marker());
    let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
    let indentation = line.len().saturating_sub(line.trim_start().len());
    let tab = line.get(..indentation).is_some_and(|space| space.contains('\t'));
    let kind = error.kind();
    if matches!(kind, ErrorKind::RecursionLimitExceeded) {
        return Refusal {
            at,
            code: "depth",
            message: format!("nested deeper than {MAX_DEPTH} levels"),
            hint: None,
        };
    }
    let hint = if tab {
        Some("indent with spaces; YAML takes no tabs there".to_owned())
    } else if matches!(kind, ErrorKind::MappingValueNotAllowed) {
        Some("text with `: ` in it must stand in quotes; otherwise check the indentation".to_owned())
    } else {
        None
    };
    Refusal { at, code: "syntax", message: format!("not valid YAML: {}", error.info()), hint }
}
