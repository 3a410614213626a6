//! One style for resource files: two spaces a level, lists inside their key, no trailing space, at most one empty
//! line in a row. Keys keep their order, texts their quotes, and every comment stays. What comes out is read again
//! and must say the same.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::source::{Finding, Page, Source};
use crate::yaml::{self, Mark, Node, Style, Value};

/// Formats a file.
///
/// # Errors
/// When the file is not valid YAML.
pub fn format(source: &Source) -> Result<String, Vec<Finding>> {
    let page = Page::new(source);
    let text = source.text.replace("\r\n", "\n");
    let parsed = yaml::parse(&text);
    if !parsed.refusals.is_empty() {
        return Err(parsed.refusals.into_iter().map(|refusal| page.refused(refusal)).collect());
    }
    let mut layout = Layout::default();
    for root in &parsed.roots {
        layout.node(root, 0, &text);
    }
    let same = |candidate: &str| {
        let again = yaml::parse(candidate);
        again.refusals.is_empty()
            && again.roots.len() == parsed.roots.len()
            && again.roots.iter().zip(&parsed.roots).all(|(a, b)| a.same_as(b))
    };
    // From the best to none at all: a form that changed the meaning is not taken.
    let candidates = [layout.indent(&text), tidy(&text, &layout), text.clone()];
    Ok(candidates.into_iter().find(|candidate| same(candidate)).unwrap_or(text))
}

/// What each line is, by number from 1.
#[derive(Debug, Default)]
struct Layout {
    /// Lines on which a list item or a key begins, with the indentation that they get.
    begins: BTreeMap<usize, usize>,
    /// Lines inside of a text that must not be touched, other than moved: true when even blanks at their end count.
    inside: BTreeMap<usize, bool>,
}

impl Layout {
    /// Notes the lines of a node that is to stand at `indent`.
    fn node(&mut self, node: &Node, indent: usize, text: &str) {
        match &node.value {
            Value::Scalar(_, style) => self.scalar(node, *style, text),
            Value::List(items) => {
                let flow = text.get(node.bytes.clone()).is_some_and(|own| own.starts_with('['));
                for item in items {
                    if !flow {
                        self.begin(dash(item, text), indent);
                    }
                    self.node(item, indent.saturating_add(2), text);
                }
            }
            Value::Map(entries) => {
                let flow = text.get(node.bytes.clone()).is_some_and(|own| own.starts_with('{'));
                for entry in entries {
                    if !flow {
                        self.begin(entry.at, indent);
                    }
                    self.node(&entry.value, indent.saturating_add(2), text);
                }
            }
        }
    }

    /// The first thing that begins on a line says where the line goes.
    fn begin(&mut self, at: Mark, indent: usize) {
        self.begins.entry(at.line).or_insert(indent);
    }

    fn scalar(&mut self, node: &Node, style: Style, text: &str) {
        let own = text.get(node.bytes.clone()).unwrap_or_default();
        let breaks = own.trim_end_matches('\n').matches('\n').count();
        // A block's text begins on the line after its `|`.
        let first = node.at.line.saturating_add(usize::from(style != Style::Block));
        let last = node.at.line.saturating_add(breaks);
        for line in first..=last {
            self.inside.insert(line, style != Style::Plain);
        }
    }

    /// The text with each line at its indentation. Lines that begin nothing move along with the last that does;
    /// comments stand as the next line does.
    fn indent(&self, text: &str) -> String {
        let lines: Vec<&str> = text.lines().collect();
        let mut shift = 0_isize;
        let mut out = String::with_capacity(text.len());
        let mut blank = true;
        for (index, line) in lines.iter().enumerate() {
            let number = index.saturating_add(1);
            let exact = self.inside.get(&number).copied().unwrap_or(false);
            let body = line.trim_start_matches(' ');
            let old = line.len().saturating_sub(body.len());
            let comment = body.starts_with('#') && !self.inside.contains_key(&number);
            let new = if let Some(indent) = self.begins.get(&number) {
                shift = signed(*indent).saturating_sub(signed(old));
                *indent
            } else if comment {
                self.next_begin(number, &lines).unwrap_or(old)
            } else {
                usize::try_from(signed(old).saturating_add(shift)).unwrap_or(0)
            };
            let body = if exact { body } else { body.trim_end() };
            let body = if self.begins.contains_key(&number) { dashes(body) } else { Cow::Borrowed(body) };
            if body.is_empty() && !exact {
                if !blank {
                    out.push('\n');
                }
                blank = true;
                continue;
            }
            blank = false;
            if !body.is_empty() {
                out.extend(std::iter::repeat_n(' ', new));
            }
            out.push_str(&body);
            out.push('\n');
        }
        finish(out)
    }

    /// Where the next line after `number` begins that is neither empty nor a comment.
    fn next_begin(&self, number: usize, lines: &[&str]) -> Option<usize> {
        let after = lines.iter().enumerate().skip(number);
        let (index, _) = after
            .into_iter()
            .find(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'))?;
        self.begins.get(&index.saturating_add(1)).copied()
    }
}

/// One space after each `-` at the beginning of a line: what the item holds stands two columns further in.
fn dashes(body: &str) -> Cow<'_, str> {
    let mut rest = body;
    let mut out = String::new();
    while let Some(after) = rest.strip_prefix("- ") {
        out.push_str("- ");
        rest = after.trim_start_matches(' ');
    }
    if out.is_empty() { Cow::Borrowed(body) } else { Cow::Owned(out + rest) }
}

fn signed(width: usize) -> isize {
    isize::try_from(width).unwrap_or(isize::MAX)
}

/// The place of the `-` before an item.
fn dash(item: &Node, text: &str) -> Mark {
    let before = text.get(..item.bytes.start).unwrap_or_default();
    let Some(at) = before.rfind('-') else { return item.at };
    let between = before.get(at..).unwrap_or_default().matches('\n').count();
    Mark { line: item.at.line.saturating_sub(between), column: 0 }
}

/// Only blanks at the ends of lines and empty lines are changed.
fn tidy(text: &str, layout: &Layout) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.lines().enumerate() {
        let exact = layout.inside.get(&index.saturating_add(1)).copied().unwrap_or(false);
        out.push_str(if exact { line } else { line.trim_end() });
        out.push('\n');
    }
    finish(out)
}

/// One line end at the end of the file.
fn finish(mut out: String) -> String {
    while out.ends_with("\n\n") {
        out.pop();
    }
    out
}

#[cfg(test)]
mod tests;
