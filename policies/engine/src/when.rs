//! `when`: a CEL expression over the call (<https://github.com/google/cel-spec>).
//!
//! CEL ends always but not always soon, so an expression is bounded before it may judge: its length, its depth, and
//! its loops, which nest two deep at most and then only over what the outer one is at.

pub(crate) mod check;
mod facts;

use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, ExecutionError, Program, Value};

use check::{Cost, Fault, Names};

pub(crate) use facts::Facts;

/// Longest expression, in bytes.
const MAX_BYTES: usize = 4096;
/// Largest arguments that a loop may look at as a whole on each of its turns, in bytes: the time that it takes grows
/// with their square.
pub(crate) const MAX_LOOPED_ARGS: usize = 8 << 10;
/// Deepest nesting of brackets before an expression is parsed at all.
const MAX_BRACKETS: usize = 32;

pub(crate) static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression.
pub(crate) struct When {
    program: Program,
    text: Box<str>,
    cost: Cost,
}

/// Why an expression cannot be used; line and column from 1, within the expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadExpression {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl When {
    /// Compiles an expression and checks that it names only what there is.
    pub(crate) fn compile(text: &str) -> Result<Self, BadExpression> {
        let (program, cost) = program(text, Names { known: &facts::VARIABLES, large: &["args"] })?;
        Ok(Self { program, text: text.trim().into(), cost })
    }

    /// Whether it holds for a call.
    ///
    /// # Errors
    /// When it cannot be evaluated or is neither true nor false. The message has names and types, no values: it
    /// goes into the record.
    pub(crate) fn holds(&self, facts: &Facts<'_>) -> Result<bool, String> {
        if self.cost == Cost::Quadratic && facts.args_bytes() > MAX_LOOPED_ARGS {
            let why =
                format!("a loop over arguments of more than {MAX_LOOPED_ARGS} bytes would take too long");
            return Err(self.failed(&why));
        }
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(facts);
        let result = self.program.execute(&context);
        if let Some(fault) = facts.args_fault() {
            return Err(self.failed(fault));
        }
        match result {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(self.failed(&format!("the result is {}, not true or false", other.type_of()))),
            Err(error) => Err(self.failed(&describe(&error))),
        }
    }

    fn failed(&self, why: &str) -> String {
        format!("the expression `{}` cannot be evaluated: {why}", self.text)
    }
}

/// Parses an expression within bounds, and checks that it names only what there is.
pub(crate) fn program(text: &str, names: Names<'_>) -> Result<(Program, Cost), BadExpression> {
    let bad = |message: String| BadExpression { line: 1, column: 1, message, hint: None };
    if text.len() > MAX_BYTES {
        return Err(bad(format!("the expression is longer than {MAX_BYTES} bytes")));
    }
    if text.trim().is_empty() {
        return Err(bad("the expression is empty; leave it out, or write a condition".to_owned()));
    }
    if check::brackets(text) > MAX_BRACKETS {
        return Err(bad(format!("brackets nest deeper than {MAX_BRACKETS} levels")));
    }
    let program = ENV.compile(text).map_err(|errors| match errors.errors.first() {
        Some(error) => BadExpression {
            line: usize::try_from(error.pos.0).unwrap_or(1).max(1),
            column: usize::try_from(error.pos.1).unwrap_or(1).max(1),
            message: syntax(&error.msg),
            hint: None,
        },
        None => bad("not a valid expression".to_owned()),
    })?;
    let cost = check::check(&program, names).map_err(|fault| placed(fault, &program, text))?;
    Ok((program, cost))
}

/// A fault with its place in the text.
pub(crate) fn placed(fault: Fault, program: &Program, text: &str) -> BadExpression {
    let start = fault.node.and_then(|id| program.source_info().offset_for(id)).map_or(0, |(start, _)| start);
    let before = text.get(..usize::try_from(start).unwrap_or(0)).unwrap_or_default();
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()).saturating_add(1);
    BadExpression { line, column, message: fault.message, hint: fault.hint }
}

/// The parser's message without its list of everything that could stand there.
fn syntax(message: &str) -> String {
    let message = message.trim_start_matches("Syntax error: ").replace('\'', "`");
    let short = message.split(" expecting ").next().unwrap_or_default();
    if short.contains("`<EOF>`") { "the expression ends too early".to_owned() } else { short.to_owned() }
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("When").field(&self.text).finish()
    }
}

/// What went wrong, with names and types only.
pub(crate) fn describe(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => {
            let key: String = key.chars().take(64).collect();
            format!("there is no `{key}`; test with `has(…)` first")
        }
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known"),
        ExecutionError::NoSuchOverload(overload) => {
            format!("`{}` does not take {}", overload.function(), overload.argument_types().join(" and "))
        }
        ExecutionError::FunctionError { function, .. } => format!("`{function}` failed"),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "division by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "a number is too large".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds".to_owned(),
        ExecutionError::ValuesNotComparable(a, b) => {
            format!("{} and {} cannot be compared", a.type_of(), b.type_of())
        }
        _ => "a value has the wrong type".to_owned(),
    }
}

#[cfg(test)]
mod tests;
