//! What an expression may contain.

use cel::Program;
use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue};

use crate::source::nearest;

/// Deepest nesting of operators and calls.
const MAX_DEPTH: usize = 64;
/// Largest compiled regular expression in `matches`, in bytes.
const MAX_REGEX: usize = 1 << 20;
/// Functions of CEL's standard library as the evaluator has them, macros included.
const FUNCTIONS: [&str; 37] = [
    "all",
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "has",
    "int",
    "map",
    "matches",
    "max",
    "min",
    "optional",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
    "value",
    "hasValue",
    "orValue",
];
/// Names of types, which stand for themselves.
const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "duration", "int", "list", "map", "null_type", "string", "timestamp", "uint"];

/// What is wrong, and at which node of the expression.
pub(crate) struct Fault {
    pub(crate) node: Option<u64>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// The deepest nesting of brackets outside of strings; the parser is spared what is deeper.
pub(super) fn brackets(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut quote = None;
    let mut escaped = false;
    for c in text.chars() {
        match quote {
            Some(_) if std::mem::take(&mut escaped) => {}
            Some(_) if c == '\\' => escaped = true,
            Some(end) if c == end => quote = None,
            Some(_) => {}
            None => match c {
                '"' | '\'' => quote = Some(c),
                '(' | '[' | '{' | '?' => {
                    depth = depth.saturating_add(1);
                    deepest = deepest.max(depth);
                }
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            },
        }
    }
    deepest
}

/// What evaluating takes, as the size of the arguments grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    Linear,
    /// A loop looks, on each turn, at more than what it is at.
    Quadratic,
}

/// What an expression may name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'n> {
    pub(crate) known: &'n [&'n str],
    /// Those that can be large.
    pub(crate) large: &'n [&'n str],
}

/// Checks names, depth, loops and patterns.
pub(super) fn check<'e>(program: &'e Program, names: Names<'e>) -> Result<Cost, Fault> {
    let mut walk = Walk { names, scope: Vec::new(), loops: Vec::new(), cost: Cost::Linear };
    walk.expression(program.expression(), 0)?;
    Ok(walk.cost)
}

struct Walk<'e> {
    names: Names<'e>,
    /// Names that the loops around bring.
    scope: Vec<&'e str>,
    /// What the loops around are at.
    loops: Vec<&'e str>,
    cost: Cost,
}

impl<'e> Walk<'e> {
    fn expression(&mut self, at: &'e IdedExpr, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(fault(at, format!("the expression nests deeper than {MAX_DEPTH} levels")));
        }
        let depth = depth.saturating_add(1);
        match &at.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(at, name),
            Expr::Select(select) => self.expression(&select.operand, depth),
            Expr::Call(call) => {
                function(at, &call.func_name)?;
                if call.func_name == "matches" {
                    call.args.last().map_or(Ok(()), pattern)?;
                    // The pattern is compiled on each turn.
                    self.costs(!self.loops.is_empty());
                }
                call.target.iter().try_for_each(|target| self.expression(target, depth))?;
                call.args.iter().try_for_each(|arg| self.expression(arg, depth))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|item| self.expression(item, depth)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr, depth)),
            Expr::Struct(_) => Err(fault(at, "objects cannot be made here".to_owned())),
            Expr::Comprehension(each) => self.comprehension(at, each, depth),
        }
    }

    fn entry(&mut self, entry: &'e EntryExpr, depth: usize) -> Result<(), Fault> {
        match entry {
            EntryExpr::StructField(field) => self.expression(&field.value, depth),
            EntryExpr::MapEntry(pair) => {
                self.expression(&pair.key, depth)?;
                self.expression(&pair.value, depth)
            }
        }
    }

    fn comprehension(
        &mut self,
        at: &'e IdedExpr,
        each: &'e ComprehensionExpr,
        depth: usize,
    ) -> Result<(), Fault> {
        if let Some(outer) = self.loops.last() {
            let over = root(&each.iter_range);
            if self.loops.len() >= 2 || over != Some(outer) {
                let mut fault =
                    fault(at, "a loop within a loop may only go over what the outer one is at".to_owned());
                fault.hint = Some(format!("begin the inner one with `{outer}`, and nest no deeper than two"));
                return Err(fault);
            }
        }
        self.expression(&each.iter_range, depth)?;
        self.expression(&each.accu_init, depth)?;
        let before = self.scope.len();
        self.scope.push(&each.iter_var);
        self.scope.extend(each.iter_var2.as_deref());
        self.scope.push(&each.accu_var);
        self.loops.push(each.iter_var2.as_deref().unwrap_or(&each.iter_var));
        self.expression(&each.loop_cond, depth)?;
        self.expression(&each.loop_step, depth)?;
        self.loops.pop();
        self.expression(&each.result, depth)?;
        self.scope.truncate(before);
        Ok(())
    }

    fn costs(&mut self, quadratic: bool) {
        if quadratic {
            self.cost = Cost::Quadratic;
        }
    }

    fn name(&mut self, at: &IdedExpr, name: &str) -> Result<(), Fault> {
        let known = name.starts_with('@')
            || self.names.known.contains(&name)
            || TYPES.contains(&name)
            || self.scope.contains(&name);
        if known {
            let outer = self.loops.iter().rev().skip(1).any(|other| *other == name);
            self.costs(outer || (self.names.large.contains(&name) && !self.loops.is_empty()));
            return Ok(());
        }
        let mut fault = fault(at, format!("`{name}` is not a name that is known here"));
        fault.hint = Some(match nearest(name, self.names.known.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known names: {}", self.names.known.join(", ")),
        });
        Err(fault)
    }
}

fn fault(at: &IdedExpr, message: String) -> Fault {
    Fault { node: Some(at.id), message, hint: None }
}

/// The variable that `a.b[0].c` begins with.
fn root(mut at: &IdedExpr) -> Option<&str> {
    loop {
        match &at.expr {
            Expr::Ident(name) => return Some(name),
            Expr::Select(select) => at = &select.operand,
            Expr::Call(call) if call.func_name == "_[_]" => at = call.args.first()?,
            _ => return None,
        }
    }
}

fn function(at: &IdedExpr, name: &str) -> Result<(), Fault> {
    let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
    if operator || FUNCTIONS.contains(&name) {
        return Ok(());
    }
    let mut fault = fault(at, format!("there is no function `{name}`"));
    fault.hint = nearest(name, FUNCTIONS).map(|meant| format!("did you mean `{meant}`?"));
    Err(fault)
}

/// A pattern must stand in the expression: it is compiled now, so that it cannot fail or grow later.
fn pattern(at: &IdedExpr) -> Result<(), Fault> {
    let Expr::Literal(LiteralValue::String(text)) = &at.expr else {
        return Err(fault(at, "the pattern of `matches` must be a text in quotes".to_owned()));
    };
    match regex::RegexBuilder::new(text.inner()).size_limit(MAX_REGEX).build() {
        Ok(_) => Ok(()),
        Err(error) => Err(fault(at, crate::content::describe(&error))),
    }
}
