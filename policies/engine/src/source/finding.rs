//! One thing that is wrong with a file, and where.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The set cannot be used.
    Error,
    /// It can, but likely does not mean what it says.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong with a file. Displayed as compilers do, with the source line and a caret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Stable name of the kind of finding, such as `unknown-key`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The line that it is about.
    pub source_line: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity, file, line, column, message, source_line, .. } = self;
        write!(f, "{file}:{line}:{column}: {severity}: {message}")?;
        let gutter = line.to_string();
        if !source_line.is_empty() {
            let width = gutter.len();
            let before: String = source_line.chars().take(column.saturating_sub(1)).collect();
            // Tabs stay tabs, so that the caret stands where the terminal puts the character.
            let pad: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n {gutter} | {source_line}\n {:width$} | {pad}^", "")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n {:width$} = hint: {hint}", "", width = gutter.len())?;
        }
        Ok(())
    }
}
